/*
 * Go: a goroutine works on the request that it has read, or that the goroutine which started it was working on then.
 *
 * net/http writes each call from a goroutine that belongs to the connection: it writes for the one that handed it over.
 */
#pragma once

static __always_inline __u64 number_of_goroutine(const struct runtime *runtime, __u64 g) {
  __u64 number = 0;
  if (!g || bpf_probe_read_user(&number, sizeof number, (void *)(g + runtime->number_at))) return 0;
  return number;
}

/* The goroutine that runs on this thread, as its own block of memory says. */
static __always_inline __u64 this_g(void) {
  __u64 block = BPF_CORE_READ(bpf_get_current_task_btf(), thread.fsbase), g = 0;
  if (bpf_probe_read_user(&g, sizeof g, (void *)(block - 8))) return 0;
  return g;
}

static __always_inline __u64 this_goroutine(const struct runtime *runtime) {
  return number_of_goroutine(runtime, this_g());
}

static __always_inline struct request request_of_goroutine(__u64 number) {
  struct strand *strand = strand_of(number);
  if (strand && strand->writes_for) strand = strand_of(strand->writes_for);
  if (!strand || !strand->cause.number) return NOBODYS;
  return strand->is_reader || !is_mixed_up() ? strand->cause : NOBODYS;
}

/* Words of a thread's description, and where in them the goroutine that it runs is looked for. In that of a goroutine: its
 * thread. */
#define THREAD_WORDS 32
#define THREAD_FIRST 16
#define GOROUTINE_THREAD 48

/* The description of the thread that this is, when it runs the scheduler's own code; that names its first goroutine first. */
static __always_inline __u64 this_m(__u64 own) {
  __u64 m = 0, first = 0;
  if (!own || bpf_probe_read_user(&m, sizeof m, (void *)(own + GOROUTINE_THREAD)) || !m) return 0;
  if (bpf_probe_read_user(&first, sizeof first, (void *)m)) return 0;
  return first == own ? m : 0;
}

/* The scheduler makes a goroutine for the one that runs: where the thread says so. */
static __always_inline void find_running(struct runtime *runtime, __u64 running) {
  __u64 words[THREAD_WORDS] = {0}, m = this_m(this_g());
  __u32 at = 0;
  if (!running || !m || bpf_probe_read_user(words, sizeof words, (void *)m)) return;
  for (int i = THREAD_FIRST; i < THREAD_WORDS; i++) {
    if (words[i] != running) continue;
    if (at) return;
    at = 8 * i;
  }
  runtime->context_at = at;
}

/* The goroutine for which the scheduler is at work. */
static __always_inline __u64 running_goroutine(const struct runtime *runtime) {
  __u64 m = this_m(this_g()), g = 0;
  if (!runtime->context_at || !m || bpf_probe_read_user(&g, sizeof g, (void *)(m + runtime->context_at))) return 0;
  return number_of_goroutine(runtime, g);
}

/*
 * One goroutine wakes another: it hands over work, or tells of its end. One that was started for a request and has to do
 * with another request's may work for several; so may one that goes on when it has told its own request's.
 */
static __always_inline void goroutine_wakes(const struct runtime *runtime, __u64 woken) {
  __u64 by = running_goroutine(runtime);
  if (!woken || woken == by) return;
  struct strand *strand = strand_of(woken), *waker = strand_of(by);
  if (!strand || !waker || strand->writes_for || waker->writes_for) return;
  if (!unanswered(&strand->cause) || !unanswered(&waker->cause)) return;
  int is_another = strand->cause.number != waker->cause.number;
  /* It has answered another one's request: there may be more like it. */
  if (is_another && !waker->is_reader && strand->is_reader) suspect();
  if (is_another && !strand->is_reader) strand->cause = NOBODYS;
  if (!waker->is_reader && (is_another || strand->is_reader)) waker->cause = NOBODYS;
}

/* net/http.(*Transport).dialConnFor, in a goroutine of its own: what that starts belongs to the connection. */
SEC("uprobe")
int on_dialled(struct pt_regs *regs) {
  struct runtime *runtime = this_runtime(GO);
  struct strand *strand = runtime ? strand_of(this_goroutine(runtime)) : 0;
  if (strand && !strand->is_reader) strand->cause = NOBODYS;
  return 0;
}

/* runtime.newproc1(fn, callergp, callerpc, parked): what is parked is not queued. */
SEC("uprobe")
int on_goroutine_made(struct pt_regs *regs) {
  struct runtime *runtime = this_runtime(GO);
  if (!runtime) return 0;
  struct thread *thread = this_thread(BPF_LOCAL_STORAGE_GET_F_CREATE);
  if (!thread) return 0;
  int is_parked = runtime->variant && go_argument(regs, 3) & 1;
  if (!runtime->context_at) find_running(runtime, go_argument(regs, 1));
  thread->starts_from = is_parked ? 0 : number_of_goroutine(runtime, go_argument(regs, 1));
  return 0;
}

/* runtime.runqput(pp, gp, next): the first after that, on the same thread, is of the new one. */
SEC("uprobe")
int on_goroutine_queued(struct pt_regs *regs) {
  struct thread *thread = this_thread(0);
  struct runtime *runtime = this_runtime(GO);
  if (!runtime) return 0;
  if (!thread || !thread->starts_from) {
    goroutine_wakes(runtime, number_of_goroutine(runtime, go_argument(regs, 1)));
    return 0;
  }
  struct request cause = request_of_goroutine(thread->starts_from);
  thread->starts_from = 0;
  if (!unanswered(&cause)) return 0;
  __u64 number = number_of_goroutine(runtime, go_argument(regs, 1));
  struct strand made = {.cause = cause};
  if (number && !strand_of(number)) set_passing_strand(number, &made);
  return 0;
}

/* net/http.(*persistConn).roundTrip: what this connection writes next is for this goroutine. */
SEC("uprobe")
int on_call_handed_over(struct pt_regs *regs) {
  struct runtime *runtime = this_runtime(GO);
  if (!runtime) return 0;
  __u64 connection = go_argument(regs, 0), g = go_goroutine(regs);
  __u64 own = this_g();
  if (own && g != own) {
    /* Its threads' blocks are laid out in another way. */
    runtime->kind = 0;
    return 0;
  }
  __u64 number = number_of_goroutine(runtime, g);
  struct strand *strand = strand_of(number);
  struct strand made = {.cause = request_of_goroutine(number), .is_reader = strand && strand->is_reader};
  set_strand(connection, &made);
  return 0;
}

/* net/http.persistConnWriter.Write: in the goroutine that writes to this connection alone, before it does. */
SEC("uprobe")
int on_writer_writes(struct pt_regs *regs) {
  struct runtime *runtime = this_runtime(GO);
  if (!runtime) return 0;
  __u64 number = number_of_goroutine(runtime, go_goroutine(regs)), connection = go_argument(regs, 0);
  struct strand *strand = strand_of(number);
  if (strand && strand->writes_for == connection) return 0;
  struct strand made = {.cause = NOBODYS, .writes_for = connection};
  if (number) set_strand(number, &made);
  return 0;
}

/* The request whose call begins on this connection now. */
static __always_inline struct request go_request(const struct runtime *runtime, struct call *call) {
  __u64 number = this_goroutine(runtime);
  struct strand *strand = strand_of(number);
  if (strand && strand->writes_for) call->carried_by = number;
  return request_of_goroutine(number);
}

static __always_inline void go_reads(const struct runtime *runtime, struct request request) {
  __u64 number = this_goroutine(runtime);
  struct strand made = {.cause = request, .is_reader = 1};
  if (number) set_strand(number, &made);
}
