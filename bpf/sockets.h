/*
 * Threads and descriptors: which request was the thread that sends working on?
 *
 * A thread that reads an inbound connection with blocking calls works on that request until the response begins
 * (`thread`). A thread that handles events works on what the event was about: an inbound request, the response to a
 * call, a connection that is open now; until it asks for new events (`lineage`). The latter is certain only while the
 * process has one such thread, no timer can have fired, and no other request waits for something that is not seen
 * here: for a free connection of a pool, a timer, a lookup of names, a thread pool. Even then a job of the program's own
 * may have been woken by something unseen.
 *
 * Evidence is written before the bytes leave.
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

/* The remote address and port in 16 bits, as src/net/kernel/slots.rs folds them. */
static __always_inline __u16 remote_fold(const struct sock *sk) {
  __u32 bits = remote_address(sk);
  return bits ^ bits >> 16 ^ remote_port(sk);
}

static __always_inline struct call *known_call(struct sock *sk) { return bpf_sk_storage_get(&calls, sk, 0, 0); }

static __always_inline int is_same(const struct ends *one, const struct ends *other) {
  return one->near == other->near && one->far == other->far && one->near_port == other->near_port &&
         one->far_port == other->far_port;
}

static __always_inline void end_request(struct inbound *inbound);

/* Pillion's connection to the program at the other end of this socket, if that is what it is. */
static __always_inline struct inbound *inbound_of(const struct sock *sk) {
  struct inbound *inbound = inbound_from(remote_port(sk));
  if (!inbound) return 0;
  struct ends ends = {
      .near = remote_address(sk), .far = local_address(sk), .near_port = remote_port(sk), .far_port = local_port(sk)};
  if (is_same(&inbound->ends, &ends)) return inbound;
  /* Pillion may have opened several from this port, to different addresses: this one leads to the program. */
  if (!bpf_map_lookup_elem(&opened, &ends)) return 0;
  end_request(inbound);
  inbound->ends = ends;
  return inbound;
}

static __always_inline void count_waiting(struct inbound *inbound, int change) {
  struct process *process = known_process(inbound->process);
  if (process) __sync_fetch_and_add(&process->waiting, change);
}

static __always_inline void end_request(struct inbound *inbound) {
  if (!inbound->number) return;
  inbound->number = 0;
  if (inbound->is_counted && !inbound->open_calls) count_waiting(inbound, -1);
  inbound->is_counted = 0;
}

static __always_inline void open_call(struct call *call, const struct request *cause) {
  struct inbound *inbound = unanswered(cause);
  call->is_open = 1;
  call->cause = (struct request){0};
  if (!inbound) return;
  call->cause = *cause;
  if (inbound->is_counted && !inbound->open_calls) count_waiting(inbound, -1);
  inbound->open_calls++;
}

static __always_inline void close_call(struct call *call) {
  if (!call->is_open) return;
  call->is_open = 0;
  struct inbound *inbound = unanswered(&call->cause);
  if (!inbound || !inbound->open_calls) return;
  inbound->open_calls--;
  if (inbound->is_counted && !inbound->open_calls) count_waiting(inbound, 1);
}

/* The process that handles an event now. */
static __always_inline struct process *event_process(void) {
  struct task_struct *leader = bpf_get_current_task_btf()->group_leader;
  __u32 id = this_process(), thread = bpf_get_current_pid_tgid();
  __u64 started = leader->start_time;
  struct process *process = known_process(id);
  if (!process || process->started != started) {
    struct process fresh = {.started = started, .loop = thread};
    bpf_map_update_elem(&processes, &id, &fresh, BPF_ANY);
    process = known_process(id);
  }
  if (process && process->loop != thread) process->has_more_loops = 1;
  return process;
}

static __always_inline void handle(struct thread *thread, struct request request) {
  thread->handling = request;
  if (!thread->first_event) thread->first_event = bpf_ktime_get_ns();
}

/* Nothing but the event can have led here. */
static __always_inline int is_sure(const struct process *process, const struct thread *thread,
                                   const struct inbound *cause) {
  if (!process || process->has_more_loops) return 0;
  __u32 itself = cause->is_counted && !cause->open_calls;
  if (process->waiting != itself) return 0;
  __u64 now = bpf_ktime_get_ns();
  return now < thread->due && now < thread->first_event + SHORTEST_TIMER;
}

static __always_inline __u64 word(__u32 cause, __u16 remote, int is_sure) {
  __u64 time = bpf_ktime_get_ns() >> 9 & 0x7fffffff;
  return (__u64)cause << 48 | (__u64)remote << 32 | time << 1 | is_sure;
}

static __always_inline void begin_connection(struct sock *sk) {
  struct call *call = bpf_sk_storage_get(&calls, sk, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
  if (!call) return;
  if (is_sidecar()) {
    call->is_sidecars = 1;
    return;
  }
  struct thread *thread = follows_events ? this_thread(0) : 0;
  struct inbound *cause = thread ? unanswered(&thread->handling) : 0;
  struct request none = {0};
  call->is_fresh = 1;
  call->was_sure = cause && is_sure(known_process(this_process()), thread, cause);
  open_call(call, cause ? &thread->handling : &none);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state, const struct sock *const_sk, int old, int new) {
  struct sock *sk = (struct sock *)const_sk;
  if (new != TCP_SYN_SENT && new != TCP_ESTABLISHED && new != TCP_CLOSE) return 0;
  if (!is_tcp(sk) || is_elsewhere(sk)) return 0;
  if (new == TCP_SYN_SENT) {
    begin_connection(sk);
    return 0;
  }
  struct call *call = known_call(sk);
  if (!call) return 0;
  if (!call->is_sidecars) {
    if (new == TCP_CLOSE) close_call(call);
    return 0;
  }
  if (new == TCP_ESTABLISHED) {
    __u8 is_open = 1;
    call->ends = (struct ends){.near = local_address(sk),
                               .far = remote_address(sk),
                               .near_port = local_port(sk),
                               .far_port = remote_port(sk)};
    bpf_map_update_elem(&opened, &call->ends, &is_open, BPF_ANY);
    return 0;
  }
  /* The socket has no port any more. */
  bpf_map_delete_elem(&opened, &call->ends);
  struct inbound *inbound = inbound_from(call->ends.near_port);
  if (inbound && is_same(&inbound->ends, &call->ends)) {
    end_request(inbound);
    inbound->ends = (struct ends){0};
  }
  return 0;
}

static __always_inline void begin_request(struct inbound *inbound, int flags, __u32 port) {
  struct thread *thread = this_thread(BPF_LOCAL_STORAGE_GET_F_CREATE);
  if (!thread) return;
  int is_event = flags & MSG_DONTWAIT;
  struct process *process = follows_events && is_event ? event_process() : 0;
  if (!inbound->number) {
    __u32 number = __sync_fetch_and_add(&requests, 1) + 1;
    inbound->open_calls = 0;
    inbound->process = this_process();
    inbound->is_counted = process != 0;
    inbound->number = number ? number : 1;
    if (process) count_waiting(inbound, 1);
  }
  struct request request = {port, inbound->number}, none = {0};
  /* One that does not block may be read by a thread that then works on something else. */
  thread->serving = is_event ? none : request;
  if (process) handle(thread, request);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(on_receive, struct sock *sk, int length, int flags) {
  if (length <= 0 || flags & MSG_PEEK || this_process() == sidecar || !is_tcp(sk) || is_elsewhere(sk)) return 0;
  struct call *call = known_call(sk);
  struct inbound *inbound = call ? 0 : inbound_of(sk);
  if (inbound) {
    begin_request(inbound, flags, remote_port(sk));
    return 0;
  }
  if (call) close_call(call);
  struct thread *thread = follows_events && flags & MSG_DONTWAIT ? this_thread(0) : 0;
  if (!thread) return 0;
  event_process();
  /* What comes over a connection that was not seen opening may be anybody's. */
  struct request none = {0};
  handle(thread, call ? call->cause : none);
  return 0;
}

SEC("tp_btf/tcp_sendmsg_locked")
int BPF_PROG(on_send, const struct sock *const_sk) {
  struct sock *sk = (struct sock *)const_sk;
  if (this_process() == sidecar || is_elsewhere(sk)) return 0;
  struct call *call = known_call(sk);
  struct inbound *inbound = call ? 0 : inbound_of(sk);
  if (inbound) {
    end_request(inbound);
    return 0;
  }
  __u32 port = local_port(sk);
  struct slot *slot = bpf_map_lookup_elem(&slots, &port);
  if (!slot || !call || call->is_sidecars) return 0;
  struct thread *thread = this_thread(0);
  struct request none = {0}, serving = none;
  struct inbound *cause = 0;
  int sure = 0;
  if (thread && unanswered(&thread->serving)) serving = thread->serving;
  if (call->is_fresh || !call->is_open) {
    if (call->is_fresh) {
      cause = unanswered(&call->cause);
      sure = call->was_sure;
      struct process *process = cause ? known_process(cause->process) : 0;
      if (!process || process->waiting) sure = 0;
    } else if (follows_events && thread) {
      cause = unanswered(&thread->handling);
      sure = cause && is_sure(event_process(), thread, cause);
      open_call(call, cause ? &thread->handling : &none);
    }
    call->is_open = 1;
    call->is_fresh = 0;
    call->said_thread = serving;
    __u16 fold = remote_fold(sk);
    slot->thread = word(serving.port, fold, 1);
    slot->lineage = word(cause ? call->cause.port : 0, fold, sure);
    return 0;
  }
  /* More of a request that has begun; or another one, before the response: then it is anybody's. */
  if (call->said_thread.number != serving.number && call->said_thread.number) {
    call->said_thread = none;
    slot->thread = word(0, remote_fold(sk), 0);
  }
  return 0;
}
