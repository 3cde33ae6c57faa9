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
  return strand && strand->cause.number ? strand->cause : NOBODYS;
}

/* runtime.newproc1(fn, callergp, callerpc, parked): what is parked is not queued. */
SEC("uprobe")
int on_goroutine_made(struct pt_regs *regs) {
  struct runtime *runtime = this_runtime(GO);
  if (!runtime) return 0;
  struct thread *thread = this_thread(BPF_LOCAL_STORAGE_GET_F_CREATE);
  if (!thread) return 0;
  int is_parked = runtime->variant && go_argument(regs, 3) & 1;
  thread->starts_from = is_parked ? 0 : number_of_goroutine(runtime, go_argument(regs, 1));
  return 0;
}

/* runtime.runqput(pp, gp, next): the first after that, on the same thread, is of the new one. */
SEC("uprobe")
int on_goroutine_queued(struct pt_regs *regs) {
  struct thread *thread = this_thread(0);
  if (!thread || !thread->starts_from) return 0;
  struct runtime *runtime = this_runtime(GO);
  struct request cause = request_of_goroutine(thread->starts_from);
  thread->starts_from = 0;
  if (!runtime || !unanswered(&cause)) return 0;
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
  struct strand made = {.cause = request_of_goroutine(number_of_goroutine(runtime, g))};
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
  struct strand made = {.cause = request};
  if (number) set_strand(number, &made);
}
