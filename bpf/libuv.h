/*
 * libuv: what begins an event that no socket is read for. Until a read says more, it belongs to nobody; the end of work
 * in another thread (names looked up, files) belongs to the request that had it begun.
 */
#pragma once

SEC("uprobe")
int on_event_begun(struct pt_regs *regs) {
  struct thread *thread = this_thread(0);
  if (!thread) return 0;
  thread->handling = (struct request){0};
  thread->first_event = 0;
  thread->answered_port = 0;
  thread->answered_older = 0;
  return 0;
}

/* uv__work_submit(loop, work, ...) */
SEC("uprobe")
int on_work_begun(struct pt_regs *regs) {
  struct runtime *runtime = this_runtime(LIBUV);
  if (!runtime) return 0;
  struct thread *thread = this_thread(0);
  struct strand made = {.cause = NOBODYS};
  struct inbound *cause = thread ? unanswered(&thread->handling) : 0;
  struct process *process = known_process(this_process());
  if (cause && is_the_events(process, thread, 1) && is_sure(process, cause)) {
    made.cause = thread->handling;
    begin_call(cause);
  }
  set_strand(second_argument(regs), &made);
  return 0;
}

/* The end of such work: its callback is told of it. */
SEC("uprobe")
int on_work_done(struct pt_regs *regs) {
  struct runtime *runtime = this_runtime(LIBUV);
  struct thread *thread = this_thread(0);
  if (!runtime || !thread) return 0;
  thread->handling = (struct request){0};
  __u64 work = first_argument(regs);
  struct strand *strand = strand_of(work);
  if (!strand) return 0;
  struct request request = strand->cause;
  strand->cause = NOBODYS;
  struct inbound *cause = unanswered(&request);
  if (!cause) return 0;
  end_call(cause);
  handle(thread, request);
  return 0;
}
