/*
 * The hooks on connections. Evidence is written before the bytes leave.
 */
#pragma once

/* So many requests a thread that has mixed some must take up in turn until it is believed. */
#define IN_TURN 64

static __always_inline void begin_connection(struct sock *sk) {
  struct call *call = bpf_sk_storage_get(&calls, sk, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
  if (!call) return;
  if (is_sidecar()) {
    call->is_sidecars = 1;
    return;
  }
  struct runtime *known = known_runtime();
  struct runtime *runtime = known && known->kind == LIBUV ? known : 0;
  struct thread *thread = follows_events || runtime ? this_thread(0) : 0;
  struct inbound *cause = thread ? unanswered(&thread->handling) : 0;
  struct request none = {0};
  call->process = this_process();
  call->is_fresh = 1;
  if (known && known->kind == TOKIO) call->opened_by = this_task(known);
  struct process *process = known_process(call->process);
  /* Requests that may be meant instead show in `waiting` until they are answered; jobs do not. */
  call->is_doubtful = !thread || !is_the_events(process, thread, runtime != 0);
  if (runtime && process && thread && thread->answered_port && may_free(process, 0, 1)) call->is_doubtful = 1;
  call->was_sure = cause && !call->is_doubtful && is_sure(process, cause);
  open_call(call, cause ? &thread->handling : &none);
  if (runtime) count_call(call, thread);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state, const struct sock *const_sk, int old, int new) {
  struct sock *sk = (struct sock *)const_sk;
  int is_ending = new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK;
  if (new != TCP_SYN_SENT && new != TCP_ESTABLISHED && new != TCP_CLOSE && new != TCP_LISTEN && !is_ending) return 0;
  if (!is_tcp(sk) || is_elsewhere(sk)) return 0;
  if (new == TCP_LISTEN) {
    /* Its probes are to be there before the first request. */
    if (program_port && local_port(sk) == program_port && !is_sidecar()) announce(this_program(), LISTENS);
    return 0;
  }
  if (new == TCP_SYN_SENT) {
    begin_connection(sk);
    return 0;
  }
  struct call *call = known_call(sk);
  if (is_ending) {
    /* A request that the program will not answer. */
    struct inbound *inbound = call ? 0 : inbound_of(sk);
    if (inbound) end_request(inbound);
    return 0;
  }
  if (!call) return 0;
  if (!call->is_sidecars) {
    if (new == TCP_CLOSE) {
      close_call(call);
      if (call->is_idle) count_idle(sk, call, -1);
      call->is_idle = 0;
      forget_carrier(call);
    }
    return 0;
  }
  if (new == TCP_ESTABLISHED) {
    /* Who else is near, as a collector, is nobody's business. */
    if (has_one_port && remote_port(sk) != program_port) return 0;
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
  __u32 free = 0;
  struct inbound *inbound = known_inbound(&call->ends, &free);
  if (inbound) {
    end_request(inbound);
    forget_strand(inbound->read_by, inbound->process);
    inbound->read_by = 0;
    inbound->ends = (struct ends){0};
    inbound->serial++;
  }
  return 0;
}

/* A thread that takes up a request before it has answered another one works on who knows which. */
static __always_inline void watch_order(struct thread *thread, const struct inbound *inbound, int is_new) {
  if (unanswered(&thread->serving) && thread->serving.number != inbound->number) thread->mixes = IN_TURN;
  else if (is_new && thread->mixes) thread->mixes--;
}

static __always_inline void begin_request(const struct sock *sk, struct inbound *inbound, int flags) {
  struct thread *thread = this_thread(BPF_LOCAL_STORAGE_GET_F_CREATE);
  if (!thread) return;
  struct request none = {0};
  int is_event = flags & MSG_DONTWAIT, is_new = !inbound->number;
  if (!is_event && is_rest(sk, inbound)) {
    thread->serving = none;
    return;
  }
  struct process *process = is_event ? event_process() : 0;
  if (!inbound->number) {
    __u32 number = __sync_fetch_and_add(&requests, 1) + 1;
    inbound->open_calls = 0;
    inbound->process = this_process();
    inbound->program = process ? process->program : 0;
    inbound->is_counted = process != 0;
    inbound->number = number ? number : 1;
    if (process) count_waiting(inbound, 1);
  }
  struct request request = {inbound->place, inbound->number};
  if (!is_event) watch_order(thread, inbound, is_new);
  /* One that does not block may be read by a thread that then works on something else. */
  thread->serving = is_event ? none : request;
  if (!process) return;
  if (!process->is_announced) process->is_announced = announce(process->program, IS_NEW);
  handle(thread, request);
  struct runtime *runtime = known_runtime();
  if (!runtime) return;
  if (runtime->kind == PYTHON) python_reads(runtime, thread, request, inbound);
  if (runtime->kind == GO) go_reads(runtime, request);
  if (runtime->kind == TOKIO) tokio_reads(runtime, request, inbound);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(on_receive, struct sock *sk, int length, int flags) {
  if (length <= 0 || flags & MSG_PEEK || this_process() == sidecar || !is_tcp(sk) || is_elsewhere(sk)) return 0;
  struct call *call = known_call(sk);
  struct inbound *inbound = call ? 0 : inbound_of(sk);
  struct request none = {0};
  struct thread *thread = this_thread(0);
  if (thread) {
    thread->arrived = none;
    thread->has_accepted = 0;
    thread->answered_port = 0;
    thread->answered_older = 0;
  }
  if (inbound) {
    begin_request(sk, inbound, flags);
    return 0;
  }
  struct runtime *runtime = call ? known_runtime() : 0;
  if (runtime && call->is_open && runtime->kind == LIBUV) {
    count_idle(sk, call, 1);
    call->is_idle = 1;
  }
  if (runtime && runtime->kind == TOKIO) tokio_receives(runtime, call);
  if (call) close_call(call);
  if (!thread || !(flags & MSG_DONTWAIT)) return 0;
  event_process();
  /* What comes over a connection that was not seen opening may be anybody's. */
  handle(thread, call ? call->cause : none);
  thread->is_doubtful = call && call->is_doubtful;
  thread->answered_port = local_port(sk);
  thread->answered_older = !call || call->is_older;
  return 0;
}

static __always_inline void begin_answer(const struct sock *sk, struct inbound *inbound) {
  struct runtime *runtime = known_runtime();
  struct thread *thread = this_thread(0);
  struct request nobodys = {0};
  if (runtime && runtime->kind == PYTHON) python_answers(runtime, inbound);
  /* One that was read with blocking calls does not count. */
  if (inbound->number && !inbound->is_counted) watch_answer(inbound, thread ? thread->serving : nobodys);
  if (inbound->number && inbound->is_counted && runtime && runtime->kind == LIBUV && thread && unanswered(&thread->handling))
    watch_answer(inbound, thread->handling);
  if (inbound->number && runtime && (runtime->kind == GO || runtime->kind == TOKIO)) count_answer();
  end_request(inbound);
  inbound->came = BPF_CORE_READ((const struct tcp_sock *)sk, rcv_nxt);
  inbound->has_sent = 1;
}

SEC("tp_btf/tcp_sendmsg_locked")
int BPF_PROG(on_send, const struct sock *const_sk) {
  struct sock *sk = (struct sock *)const_sk;
  if (this_process() == sidecar || is_elsewhere(sk)) return 0;
  struct call *call = known_call(sk);
  struct inbound *inbound = call ? 0 : inbound_of(sk);
  if (inbound) {
    begin_answer(sk, inbound);
    return 0;
  }
  if (!call || call->is_sidecars) return 0;
  struct own_slot own = slot_of(sk);
  struct slot *slot = own.slot;
  if (!slot) return 0;
  struct thread *thread = this_thread(0);
  struct request none = {0}, serving = none, works_on = none;
  struct inbound *cause = 0;
  int sure = 0;
  if (thread && !thread->mixes && unanswered(&thread->serving) && !is_mixed_up()) serving = thread->serving;
  if (call->is_fresh || !call->is_open) {
    struct runtime *runtime = known_runtime();
    __u32 kind = runtime ? runtime->kind : 0;
    __s32 others_idle = call->is_idle ? count_idle(sk, call, -1) : 0;
    call->is_idle = 0;
    if (call->is_fresh) {
      cause = unanswered(&call->cause);
      sure = call->was_sure;
      struct process *process = cause ? known_process(cause->process) : 0;
      if (!process || process->waiting) sure = 0;
    } else if (thread && (follows_events || kind == LIBUV) && !call->is_shared) {
      cause = unanswered(&thread->handling);
      struct process *process = event_process();
      int is_only = thread->answered_port == local_port(sk) && others_idle < 1;
      call->is_doubtful = !is_the_events(process, thread, kind == LIBUV);
      if (kind == LIBUV && process && thread->answered_port && may_free(process, is_only, 0)) call->is_doubtful = 1;
      sure = cause && !call->is_doubtful && is_sure(process, cause);
      open_call(call, cause ? &thread->handling : &none);
      if (kind == LIBUV) count_call(call, thread);
    }
    if (kind != LIBUV) call->is_older = 1;
    call->is_open = 1;
    call->said_thread = serving;
    if (kind == LIBUV && sure) works_on = call->cause;
    if (kind == PYTHON) works_on = python_request(runtime);
    if (kind == GO) works_on = go_request(runtime, call);
    if (kind == TOKIO) works_on = tokio_request(runtime, call, (__u64)sk);
    if (call->is_shared) works_on = NOBODYS;
    call->said_runtime = works_on;
    call->is_fresh = 0;
    slot->runtime = word(&own, &works_on, 1);
    slot->lineage = word(&own, cause ? &call->cause : &none, sure);
    slot->thread = word(&own, &serving, 1);
    return 0;
  }
  /* More of a request that has begun; or another one, before the response: then it is anybody's. */
  if (call->said_thread.number != serving.number && call->said_thread.number) {
    call->said_thread = none;
    slot->thread = word(&own, &none, 0);
  }
  if (call->is_shared) return 0;
  struct runtime *runtime = known_runtime();
  __u32 kind = runtime ? runtime->kind : 0;
  struct request said = call->said_runtime;
  if (kind == PYTHON) {
    works_on = python_request(runtime);
  } else if (kind == GO) {
    works_on = go_request(runtime, call);
  } else if (thread && (follows_events || kind == LIBUV)) {
    works_on = thread->handling;
    said = call->cause;
  }
  int is_mixed = unanswered(&works_on) && works_on.number != said.number;
  if (kind == TOKIO) is_mixed = tokio_mixes(runtime, call);
  if (is_mixed) {
    /* What comes back over it may be anybody's, too. */
    if (kind != TOKIO) {
      close_call(call);
      call->is_open = 1;
      call->cause = none;
    }
    call->is_shared = 1;
    slot->runtime = word(&own, &none, 0);
    slot->lineage = word(&own, &none, 0);
  }
  return 0;
}
