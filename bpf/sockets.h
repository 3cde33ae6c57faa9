/*
 * Threads and descriptors: which request was the thread that sends working on?
 *
 * A thread that reads an inbound connection with blocking calls works on that request until the response begins
 * (`thread`). A thread that handles events works on what the event was about: an inbound request, the response to a
 * call, a connection that is open now; until it asks for new events (`lineage`). The latter is certain only while the
 * process has one such thread, no timer can have fired, and no other request waits for something that is not seen
 * here: for a free connection of a pool, a timer, a lookup of names, a thread pool. Even then a job of the program's own
 * may have been woken by something unseen.
 */
#pragma once

static __always_inline int is_elsewhere(const struct sock *sk) {
  return sk->__sk_common.skc_net.net->ns.inum != network;
}

static __always_inline int is_tcp(const struct sock *sk) {
  __u16 family = sk->__sk_common.skc_family;
  return (family == AF_INET || family == AF_INET6) && sk->sk_protocol == IPPROTO_TCP;
}

static __always_inline __u16 local_port(const struct sock *sk) { return sk->__sk_common.skc_num; }

static __always_inline __u16 remote_port(const struct sock *sk) { return bpf_ntohs(sk->__sk_common.skc_dport); }

/* An IPv6 address in 32 bits; one that stands for an IPv4 address as that. */
static __always_inline __u32 folded(const struct in6_addr *address) {
  __u32 a = address->in6_u.u6_addr32[0];
  __u32 b = address->in6_u.u6_addr32[1];
  __u32 c = address->in6_u.u6_addr32[2];
  __u32 d = address->in6_u.u6_addr32[3];
  return !a && !b && c == bpf_htonl(0xffff) ? d : a ^ b ^ c ^ d;
}

static __always_inline __u32 remote_address(const struct sock *sk) {
  if (sk->__sk_common.skc_family == AF_INET6) return folded(&sk->__sk_common.skc_v6_daddr);
  return sk->__sk_common.skc_daddr;
}

static __always_inline __u32 local_address(const struct sock *sk) {
  if (sk->__sk_common.skc_family == AF_INET6) return folded(&sk->__sk_common.skc_v6_rcv_saddr);
  return sk->__sk_common.skc_rcv_saddr;
}

/* An address and port in 16 bits, as src/net/kernel/slots.rs folds them. */
static __always_inline __u16 fold_of(__u32 address, __u16 port) { return address ^ address >> 16 ^ port; }

static __always_inline struct call *known_call(struct sock *sk) { return bpf_sk_storage_get(&calls, sk, 0, 0); }

static __always_inline int is_same(const struct ends *one, const struct ends *other) {
  return one->near == other->near && one->far == other->far && one->near_port == other->near_port &&
         one->far_port == other->far_port;
}

static __always_inline void end_request(struct inbound *inbound);

/* Where a connection of Pillion's is remembered; NULL where it is not. `free`: a place that it could have. */
static __always_inline struct inbound *known_inbound(const struct ends *ends, __u32 *free) {
  __u16 fold = fold_of(ends->far, ends->far_port);
  __u32 first = place_of(ends->near_port, fold, 0), second = place_of(ends->near_port, fold, 1);
  struct inbound *one = inbound_at(first), *two = inbound_at(second);
  if (!one || !two) return 0;
  if (is_same(&one->ends, ends)) return one;
  if (is_same(&two->ends, ends)) return two;
  int is_second = one->ends.near_port && (!two->ends.near_port || two->number < one->number);
  *free = is_second ? second : first;
  return 0;
}

/* Pillion's connection to the program at the other end of this socket, if that is what it is. */
static __always_inline struct inbound *inbound_of(const struct sock *sk) {
  struct ends ends = {
      .near = remote_address(sk), .far = local_address(sk), .near_port = remote_port(sk), .far_port = local_port(sk)};
  __u32 free = 0;
  struct inbound *inbound = known_inbound(&ends, &free);
  if (inbound || !bpf_map_lookup_elem(&opened, &ends)) return inbound;
  inbound = inbound_at(free);
  if (!inbound) return 0;
  end_request(inbound);
  inbound->ends = ends;
  inbound->place = free;
  inbound->has_sent = 0;
  inbound->serial++;
  return inbound;
}

/* Nothing was read but what had come before the program sent last: the rest of a request that it has answered. */
static __always_inline int is_rest(const struct sock *sk, const struct inbound *inbound) {
  if (inbound->number || !inbound->has_sent) return 0;
  __u32 read = BPF_CORE_READ((const struct tcp_sock *)sk, copied_seq);
  return (__s32)(read - inbound->came) <= 0;
}

static __always_inline void count_waiting(struct inbound *inbound, int change) {
  struct process *process = known_process(inbound->process);
  /* What another program did in the process counts there no more. */
  if (process && (__u32)process->program == inbound->program) __sync_fetch_and_add(&process->waiting, change);
}

static __always_inline void end_request(struct inbound *inbound) {
  if (!inbound->number) return;
  inbound->number = 0;
  if (inbound->is_counted && !inbound->open_calls) count_waiting(inbound, -1);
  inbound->is_counted = 0;
}

/* Counts one more or less; how many are left. */
static __always_inline __s32 count_idle(const struct sock *sk, const struct call *call, __s32 change) {
  struct destination destination = {
      .process = call->process, .address = remote_address(sk), .port = remote_port(sk)};
  __s32 *count = bpf_map_lookup_elem(&idle, &destination);
  if (!count) {
    bpf_map_update_elem(&idle, &destination, &change, BPF_ANY);
    return change;
  }
  return __sync_fetch_and_add(count, change) + change;
}

static __always_inline void begin_call(struct inbound *inbound) {
  if (inbound->is_counted && !inbound->open_calls) count_waiting(inbound, -1);
  inbound->open_calls++;
}

static __always_inline void end_call(struct inbound *inbound) {
  if (!inbound->open_calls) return;
  inbound->open_calls--;
  if (inbound->is_counted && !inbound->open_calls) count_waiting(inbound, 1);
}

static __always_inline void open_call(struct call *call, const struct request *cause) {
  struct inbound *inbound = unanswered(cause);
  call->is_open = 1;
  call->cause = (struct request){0};
  if (!inbound) return;
  call->cause = *cause;
  begin_call(inbound);
}

/* So many calls make the latest ones. The most there may be is lower than what was seen by one in so many. */
#define LATELY 64
#define OWN 8
/* So many times that is remembered what a seldom job does. */
#define LONG 255

/* Node.js: what its calls are like, as far as that tells whether one may wait for the end of another. */
static __always_inline void count_call(struct call *call, const struct thread *thread) {
  struct process *process = known_process(call->process);
  if (!process) return;
  struct inbound *cause = unanswered(&call->cause);
  call->is_counted = 1;
  call->is_older = !cause && thread && thread->answered_older;
  process->open_calls++;
  if (process->n_lately++ >= LATELY) {
    process->most = process->most_lately;
    process->fans = process->fans_lately;
    process->most_lately = process->n_lately = process->fans_lately = 0;
    if (process->may_hide) process->may_hide--;
  }
  if (process->open_calls > process->most_lately) process->most_lately = process->open_calls;
  if (cause && cause->open_calls > 1) process->fans_lately = 1;
  if (cause ? cause->open_calls > 1 : !call->is_older) process->may_hide = LONG;
}

static __always_inline void uncount_call(struct call *call) {
  if (!call->is_counted) return;
  call->is_counted = 0;
  struct process *process = known_process(call->process);
  if (process && process->open_calls > 0) process->open_calls--;
}

/*
 * Node.js: true when the response that the thread handles may have made a place free for a call of somebody else's, in a
 * pool or in a limiter of the program's own. Whoever waits for nothing but such a place shows in `waiting`; who has
 * another call open does not, nor does a job of the program's own, however seldom it calls: where there was such a
 * call among the latest 16,000, none may have waited only while another connection is free, or fewer calls are open than lately.
 */
static __always_inline int may_free(const struct process *process, int is_only_connection, int is_fresh) {
  if (mixes_up(process)) return 1;
  __s32 most = process->most > process->most_lately ? process->most : process->most_lately;
  if (is_only_connection && process->may_hide) return 1;
  if (!process->fans && !process->fans_lately && !(is_fresh && process->may_hide)) return 0;
  return (__u32)process->open_calls + 1 + ((__u32)most + OWN - 1) / OWN >= (__u32)most;
}

static __always_inline void close_call(struct call *call) {
  if (!call->is_open) return;
  call->is_open = 0;
  uncount_call(call);
  struct inbound *inbound = unanswered(&call->cause);
  if (inbound) end_call(inbound);
}

/* Has user space hear of the process, if it can be seen from there; 0: too much is to be heard now. */
static __always_inline int announce(__u64 program, __u32 what) {
  struct seen *entry = bpf_ringbuf_reserve(&seen, sizeof *entry, 0);
  if (!entry) return 0;
  entry->program = program;
  entry->process = this_process();
  entry->visible = visible_pid();
  entry->what = what;
  entry->padding = 0;
  bpf_ringbuf_submit(entry, 0);
  return 1;
}

/* The process that handles an event now. */
static __always_inline struct process *event_process(void) {
  __u32 id = this_process(), thread = bpf_get_current_pid_tgid();
  __u64 program = this_program();
  struct process *process = known_process(id);
  if (!process || process->program != program) {
    struct process fresh = {.program = program, .loop = thread};
    bpf_map_update_elem(&processes, &id, &fresh, BPF_ANY);
    process = known_process(id);
  }
  if (process && !process->loop) process->loop = thread;
  if (process && process->loop != thread) process->has_more_loops = 1;
  return process;
}

/* Who answers a request tells whether it is known who works on what: by threads, the one that has read it; with events,
 * one of the request's own, or of nobody's. */
static __always_inline void watch_answer(const struct inbound *inbound, struct request handled) {
  if (handled.place == inbound->place && handled.number == inbound->number) {
    count_answer();
    return;
  }
  __u32 id = this_process();
  struct process fresh = {.program = this_program()};
  bpf_map_update_elem(&processes, &id, &fresh, BPF_NOEXIST);
  set_mixed_up();
}

static __always_inline void handle(struct thread *thread, struct request request) {
  thread->handling = request;
  thread->is_doubtful = 0;
  if (!thread->first_event) thread->first_event = bpf_ktime_get_ns();
}

/* Nothing but the event can have led here, as far as the loop goes: no timer is due, and it is known whose the event is. */
static __always_inline int is_the_events(const struct process *process, const struct thread *thread, int is_probed) {
  if (!process || process->has_more_loops || thread->is_doubtful) return 0;
  /* What no socket event led to was seen beginning. */
  if (is_probed) return 1;
  __u64 now = bpf_ktime_get_ns();
  return now < thread->due && now < thread->first_event + SHORTEST_TIMER;
}

/* And no other request waits for something that is not seen. */
static __always_inline int is_sure(const struct process *process, const struct inbound *cause) {
  __u32 itself = cause->is_counted && !cause->open_calls;
  return process && process->waiting == itself;
}

/* A slot, whose it is, and which of the two that it may have. */
struct own_slot {
  struct slot *slot;
  __u16 fold;
  __u8 is_second;
};

#define TIME_MASK 0x3fffffff

static __always_inline __u32 word_time(void) { return bpf_ktime_get_ns() >> 10 & TIME_MASK; }

/* What a slot says of a request, or of none. */
static __always_inline __u64 word(const struct own_slot *own, const struct request *cause, int is_sure) {
  struct inbound *inbound = unanswered(cause);
  __u64 port = inbound ? inbound->ends.near_port : 0;
  return port << 48 | (__u64)own->fold << 32 | (__u64)word_time() << 2 | own->is_second << 1 | is_sure;
}

static __always_inline int is_own(__u64 word, __u16 fold, int is_second) {
  return word && (__u16)(word >> 32) == fold && (word >> 1 & 1) == is_second;
}

static __always_inline __u32 age(__u64 word) { return word ? (word_time() - (__u32)(word >> 2)) & TIME_MASK : ~0U; }

/* The slot for what is sent now: where this connection has something already, or else the older one. */
static __always_inline struct own_slot slot_of(const struct sock *sk) {
  struct own_slot own = {.fold = fold_of(remote_address(sk), remote_port(sk))};
  __u32 first = place_of(local_port(sk), own.fold, 0), second = place_of(local_port(sk), own.fold, 1);
  struct slot *one = bpf_map_lookup_elem(&slots, &first), *two = bpf_map_lookup_elem(&slots, &second);
  if (!one || !two) return own;
  own.is_second = !is_own(one->thread, own.fold, 0) &&
                  (is_own(two->thread, own.fold, 1) || age(two->thread) > age(one->thread));
  /* The first of all says how they are to be read. */
  if (!first) own.is_second = 1;
  if (!second) own.is_second = 0;
  if (own.is_second ? second : first) own.slot = own.is_second ? two : one;
  return own;
}

