/*
 * Python: a task, a callback and a call in another thread each run in a context, copied from the one that made them.
 *
 * The context that a thread runs in stands in its state, to which its own block of memory points. All of that is the
 * program's memory: what does not fit is nobody's.
 */
#pragma once

struct context_head {
  __u64 type, previous, values, references;
  __u32 is_entered;
};

/* The context that this thread has entered; 0 for none. */
static __always_inline __u64 this_context(const struct runtime *runtime) {
  __u64 block = BPF_CORE_READ(bpf_get_current_task_btf(), thread.fsbase);
  __u64 state = 0, context = 0, id = 0;
  struct context_head head = {0};
  if (bpf_probe_read_user(&state, sizeof state, (void *)(block + runtime->state_at)) || !state) return 0;
  if (bpf_probe_read_user(&id, sizeof id, (void *)(state + runtime->id_at)) || id != block) return 0;
  if (bpf_probe_read_user(&context, sizeof context, (void *)(state + runtime->context_at)) || !context) return 0;
  if (bpf_probe_read_user(&head, sizeof head, (void *)(context + 8))) return 0;
  return head.type == runtime->context_type && head.is_entered == 1 ? context : 0;
}

static __always_inline struct strand copied_from(const struct runtime *runtime, __u64 parent, struct thread *thread) {
  struct strand made = {0};
  if (thread && parent && thread->delivers_in == parent) {
    made.root = new_root();
    made.cause = thread->delivered;
    return made;
  }
  int is_accepted = thread && thread->has_accepted;
  if (is_accepted) thread->has_accepted = 0;
  struct strand *from = is_accepted ? 0 : strand_of(parent);
  if (!from || from->is_shared) {
    made.root = new_root();
    made.is_first = 1;
  }
  if (!from && parent && !is_accepted && !runtime->variant) {
    /* It is older than the probe, and one connection's. With a loop outside Python it may be all connections'. */
    set_strand(parent, &made);
    made.is_first = 0;
  }
  if (!from || from->is_shared) return made;
  made.root = from->root;
  made.cause = request_of(from);
  return made;
}

SEC("uprobe")
int on_context_copied(struct pt_regs *regs) {
  struct runtime *runtime = this_runtime(PYTHON);
  __u64 context = returned(regs);
  if (!runtime || !context) return 0;
  struct strand made = copied_from(runtime, this_context(runtime), this_thread(0));
  set_strand(context, &made);
  return 0;
}

/* An empty one, or the copy of one that is not run in. */
SEC("uprobe")
int on_context_made(struct pt_regs *regs) {
  struct runtime *runtime = this_runtime(PYTHON);
  __u64 context = returned(regs);
  if (!runtime || !context) return 0;
  struct strand made = {.root = new_root(), .cause = NOBODYS};
  set_strand(context, &made);
  return 0;
}

/* A loop outside Python reads first, and then enters the context in which all its connections are told of data. */
SEC("uprobe")
int on_context_entered(struct pt_regs *regs) {
  struct thread *thread = this_thread(0);
  if (!thread || !this_runtime(PYTHON)) return 0;
  struct request none = {0};
  thread->delivers_in = 0;
  if (!thread->arrived.number) return 0;
  __u64 context = first_argument(regs);
  thread->delivers_in = context;
  thread->delivered = thread->arrived;
  thread->arrived = none;
  struct strand *strand = strand_of(context);
  if (strand) {
    strand->is_shared = 1;
    return 0;
  }
  struct strand made = {.root = new_root(), .is_shared = 1};
  set_strand(context, &made);
  return 0;
}

/* The next context is for the connection that was accepted just now. */
SEC("uprobe")
int on_accepted(struct pt_regs *regs) {
  if (!this_runtime(PYTHON)) return 0;
  struct thread *thread = this_thread(BPF_LOCAL_STORAGE_GET_F_CREATE);
  if (thread) thread->has_accepted = (int)returned(regs) >= 0;
  return 0;
}

static __always_inline void python_reads(const struct runtime *runtime, struct thread *thread, struct request request,
                                         const struct inbound *inbound) {
  __u64 context = this_context(runtime);
  if (!context) {
    thread->arrived = request;
    return;
  }
  struct strand *strand = strand_of(context);
  struct strand made = {.root = strand ? strand->root : new_root(), .cause = request};
  if (strand) strand->cause = request;
  else set_strand(context, &made);
  serve(made.root, inbound, 1);
}

static __always_inline void python_answers(const struct runtime *runtime, const struct inbound *inbound) {
  struct strand *strand = strand_of(this_context(runtime));
  if (!strand) return;
  __u32 id = strand->root;
  int is_bound = bpf_map_lookup_elem(&roots, &id) != 0;
  serve(id, inbound, 0);
  struct root *root = bpf_map_lookup_elem(&roots, &id);
  if (!root) return;
  if (!strand->cause.number) {
    root->answers_itself = 1;
    /* Whether it waits for the next request, or was made for this one, cannot be told. */
    if (!is_bound && strand->is_first) root->is_shared = 1;
  }
  root->is_tainted = 0;
}

static __always_inline struct request python_request(const struct runtime *runtime) {
  struct strand *strand = strand_of(this_context(runtime));
  return strand ? request_of(strand) : NOBODYS;
}
