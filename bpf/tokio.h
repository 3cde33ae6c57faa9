/*
 * tokio: a task works on the request that it has read, or that the task which made it was working on then.
 *
 * HTTP clients write from a task that belongs to the connection, and carries what others hand to it. Only who hands a
 * call over wakes it between a response and the next call, and who got that response, for more of it. So it writes for
 * the other one that has woken it since it last had nothing to do, or for the latter one, if that has done so twice.
 * That it was woken by several others, or by none, says nothing: it finds a call that was handed over while it ran
 * before it is woken.
 *
 * Which task runs stands in each thread's own memory, as its number; where, is found by watching tasks begin to run.
 */
#pragma once

#define CONTEXT_WORDS 16
/* So many tasks must be found where the first one was, among so many looks. */
#define TASKS_FOUND 8
#define TASKS_LOOKED_AT 65536
/* So often must a task have woken who had handed a call over, with the response, before it is known to carry: when it
 * was not seen who opened the connection, and otherwise. */
#define TRIPS_UNSEEN 2
#define TRIPS_SEEN 1
/* So often is it woken at least by one that has got the response and hands over another call. */
#define ANSWERED_AND_AGAIN 2

/* Header of a task: state, next in the queue, table of functions. */
#define TASK_TABLE 16
#define TASK_RUNS 1
#define TASK_IS_COMPLETE 2
#define TASK_IS_WOKEN 4

/* The number of the task with this header. */
static __always_inline __u64 number_of_task(const struct runtime *runtime, __u64 header) {
  __u64 table = 0, at = 0, number = 0;
  if (!header || bpf_probe_read_user(&table, sizeof table, (void *)(header + TASK_TABLE))) return 0;
  if (bpf_probe_read_user(&at, sizeof at, (void *)(table + runtime->number_at)) || at > 4096) return 0;
  if (bpf_probe_read_user(&number, sizeof number, (void *)(header + at))) return 0;
  return number;
}

static __always_inline __u32 state_of_task(__u64 header) {
  __u64 state = 0;
  if (bpf_probe_read_user(&state, sizeof state, (void *)header)) return 0;
  return state & (TASK_RUNS | TASK_IS_COMPLETE | TASK_IS_WOKEN);
}

static __always_inline __u64 this_threads_context(const struct runtime *runtime) {
  return BPF_CORE_READ(bpf_get_current_task_btf(), thread.fsbase) - runtime->context_type;
}

/* The task that this thread runs; 0: none, or that is not known yet. */
static __always_inline __u64 this_task(const struct runtime *runtime) {
  __u64 number = 0;
  if (!runtime->id_at) return 0;
  if (bpf_probe_read_user(&number, sizeof number, (void *)(this_threads_context(runtime) + runtime->id_at))) return 0;
  return number;
}

static __always_inline void end_search(struct runtime *runtime, __u32 at) {
  runtime->id_at = at;
  if (!at) runtime->kind = 0;
  announce(runtime->program, at ? FITS : FITS_NOT);
}

/* raw::poll(header): only until it is known where numbers are. */
SEC("uprobe")
int on_task_polled(struct pt_regs *regs) {
  struct runtime *runtime = this_runtime(TOKIO);
  if (!runtime || runtime->id_at) return 0;
  struct thread *thread = this_thread(BPF_LOCAL_STORAGE_GET_F_CREATE);
  __u64 header = first_argument(regs);
  if (thread) thread->polls = state_of_task(header) == TASK_IS_WOKEN ? header : 0;
  return 0;
}

/* The task that runs now is found in one place alone, and one after the other in the same. Other small numbers may look
 * like one of them, and not like the next. */
static __always_inline void search(struct runtime *runtime) {
  struct thread *thread = this_thread(0);
  __u64 words[CONTEXT_WORDS] = {0};
  __u32 size = runtime->state_at, at = 0;
  if (__sync_fetch_and_add(&runtime->looked, 1) > TASKS_LOOKED_AT) {
    end_search(runtime, 0);
    return;
  }
  __u64 task = thread ? number_of_task(runtime, thread->polls) : 0;
  if (!task || task == runtime->latest || !(state_of_task(thread->polls) & TASK_RUNS)) return;
  if (size > sizeof words) size = sizeof words;
  if (bpf_probe_read_user(words, size, (void *)this_threads_context(runtime))) return;
  for (int i = 1; i < CONTEXT_WORDS; i++) {
    if (words[i] != task) continue;
    if (at) return;
    at = 8 * i;
  }
  if (!at) return;
  runtime->latest = task;
  if (runtime->context_at != at) runtime->found = 0;
  runtime->context_at = at;
  if (++runtime->found >= TASKS_FOUND) end_search(runtime, at);
}

static __always_inline struct request request_of_task(const struct strand *strand) {
  if (!strand || strand->is_shared || !strand->cause.number) return NOBODYS;
  return strand->is_reader || !is_mixed_up() ? strand->cause : NOBODYS;
}

/*
 * One task wakes another: it hands over work, or tells of its end. One that was made for a request and has to do with
 * another request's may work for several; so may one that goes on when it has told its own request's.
 */
static __always_inline void task_wakes(struct strand *waker, struct strand *woken) {
  if (waker->writes_for || woken->writes_for) return;
  if (!unanswered(&woken->cause) || !unanswered(&waker->cause)) return;
  int is_another = woken->cause.number != waker->cause.number;
  /* It has answered another one's request: there may be more like it. */
  if (is_another && !waker->is_reader && woken->is_reader) suspect();
  if (is_another && !woken->is_reader) woken->is_shared = 1;
  if (!waker->is_reader && (is_another || woken->is_reader)) waker->is_shared = 1;
}

/* waker::wake_by_val(header), waker::wake_by_ref(header) */
SEC("uprobe")
int on_task_woken(struct pt_regs *regs) {
  struct runtime *runtime = this_runtime(TOKIO);
  if (!runtime) return 0;
  if (!runtime->id_at) {
    search(runtime);
    return 0;
  }
  __u64 woken = number_of_task(runtime, first_argument(regs)), by = this_task(runtime);
  if (!woken || woken == by) return 0;
  struct strand *waker = strand_of(by), *strand = strand_of(woken);
  struct request cause = request_of_task(waker);
  if (!waker || !unanswered(&cause)) cause = NOBODYS;
  if (waker && waker->writes_for) {
    /* One that carries wakes whom it has an answer for; in whose name it wakes another such one is not known. */
    struct request whom = request_of_task(strand);
    if (!waker->answered.number) waker->answered = whom;
    if (waker->carries.number == whom.number) {
      if (whom.number != NOBODYS.number && waker->trips < TRIPS_UNSEEN) waker->trips++;
      waker->carries = (struct request){0};
    }
    cause = NOBODYS;
  }
  int is_at_rest = !state_of_task(first_argument(regs));
  if (waker && strand) task_wakes(waker, strand);
  if (!strand) {
    /* Who else has woken it is not known. */
    struct strand made = {.cause = NOBODYS, .handed = cause};
    if (is_at_rest && cause.number != NOBODYS.number) set_passing_strand(woken, &made);
    return 0;
  }
  if (strand->is_reader) return 0;
  if (cause.number == strand->answered.number) {
    if (strand->wakes < ANSWERED_AND_AGAIN) strand->wakes++;
    return 0;
  }
  /* It has run since it was woken before, and has found nothing more to do. */
  if (is_at_rest) strand->handed = (struct request){0};
  int is_another = strand->handed.number && strand->handed.number != cause.number;
  strand->handed = is_another ? NOBODYS : cause;
  return 0;
}

/* The number of the task with this header, if it was made just now: it waits for its first run, and is the latest. */
static __always_inline __u64 new_task(const struct runtime *runtime, __u64 header, __u64 by) {
  if (state_of_task(header) != TASK_IS_WOKEN) return 0;
  __u64 number = number_of_task(runtime, header);
  return number > by ? number : 0;
}

/* OwnedTasks::bind_inner(self, task, notified), Spawner::spawn_task(self, task, runtime): compilers may leave out the
 * first argument. */
SEC("uprobe")
int on_task_made(struct pt_regs *regs) {
  struct runtime *runtime = this_runtime(TOKIO);
  __u64 by = runtime ? this_task(runtime) : 0;
  struct strand *strand = strand_of(by);
  struct request cause = request_of_task(strand);
  if (!strand || strand->writes_for || !unanswered(&cause)) return 0;
  __u64 number = new_task(runtime, second_argument(regs), by);
  if (!number) number = new_task(runtime, first_argument(regs), by);
  struct strand made = {.cause = cause};
  if (number) set_passing_strand(number, &made);
  return 0;
}

static __always_inline void tokio_reads(struct runtime *runtime, struct request request, struct inbound *inbound) {
  if (!runtime->id_at) search(runtime);
  __u64 task = this_task(runtime);
  inbound->read_by = task;
  struct strand *strand = strand_of(task);
  if (!strand) {
    struct strand made = {.cause = request, .is_reader = 1};
    if (task) set_strand(task, &made);
    return;
  }
  /* One task for two connections at a time. */
  if (strand->is_reader && strand->cause.place != request.place && unanswered(&strand->cause)) strand->is_shared = 1;
  strand->cause = request;
  strand->is_reader = 1;
}

/* The response on a connection that this task reads: what it was woken for before is over. */
static __always_inline void tokio_receives(const struct runtime *runtime, struct call *call) {
  __u64 task = this_task(runtime);
  struct strand *strand = strand_of(task);
  if (call->carried_by && call->carried_by != task) call->is_shared = 1;
  if (!strand) return;
  strand->handed = (struct request){0};
  strand->wakes = 0;
  __u32 said = call->said_runtime.number;
  if (!strand->answered.number && said != NOBODYS.number) strand->answered = call->said_runtime;
}

/* The request whose call begins on this connection now. */
static __always_inline struct request tokio_request(const struct runtime *runtime, struct call *call, __u64 socket) {
  __u64 task = this_task(runtime);
  struct strand *strand = strand_of(task);
  if (!strand) return NOBODYS;
  struct request handed = strand->handed;
  if (strand->is_reader || call->opened_by == task) return request_of_task(strand);
  if (!strand->writes_for && call->carried_by == task) {
    /* It was forgotten while it rested. */
    strand->trips = call->trips;
    if (call->said_runtime.number != NOBODYS.number) strand->answered = call->said_runtime;
    if (call->said_runtime.number == handed.number) handed = NOBODYS;
  }
  /* Somebody else may be about to wake it. */
  if (!handed.number && strand->wakes == ANSWERED_AND_AGAIN) handed = strand->answered;
  /* Nobody got the latest response, as far as was seen: then that one may be who woke it. */
  if (!call->is_fresh && !strand->answered.number) handed = NOBODYS;
  int is_handed = handed.number && handed.number != NOBODYS.number;
  strand->handed = strand->answered = (struct request){0};
  strand->wakes = 0;
  if (!call->carried_by) call->carried_by = task;
  if (!strand->writes_for) strand->writes_for = socket;
  if (call->carried_by != task || strand->writes_for != socket) call->is_shared = 1;
  if (call->is_shared) return NOBODYS;
  /* The latest call was its own, or so it seems. */
  if (strand->carries.number && !call->opened_by) strand->trips = 0;
  __u32 trips = strand->trips;
  call->trips = trips;
  strand->carries = is_handed ? handed : NOBODYS;
  if (!is_handed) return NOBODYS;
  if (strand->cause.number == handed.number) return handed;
  /* A task of a request's own, and not only a connection's? */
  if (unanswered(&strand->cause)) return NOBODYS;
  return trips >= (call->opened_by ? TRIPS_SEEN : TRIPS_UNSEEN) ? handed : NOBODYS;
}

/* Another call has begun on the connection before the response to the first. */
static __always_inline int tokio_mixes(const struct runtime *runtime, const struct call *call) {
  struct strand *strand = strand_of(this_task(runtime));
  if (!strand || strand->is_reader) return 0;
  __u32 said = call->said_runtime.number, handed = strand->handed.number;
  return handed && handed != NOBODYS.number && said != NOBODYS.number && said != handed;
}
