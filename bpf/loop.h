/* The event loop's turns: who asks for events works on nothing, and says when its next timer is due. */
#pragma once

#define X86_EPOLL_WAIT 232
#define X86_EPOLL_PWAIT 281
#define ARM64_EPOLL_PWAIT 22
#define EPOLL_PWAIT2 441

#define NEVER (~0ULL)

static __always_inline int is_arm64(void) { return bpf_core_type_exists(struct user_pt_regs); }

/* The wait of an epoll call in milliseconds: its fourth argument. */
static __always_inline int epoll_timeout(struct pt_regs *regs) {
  if (is_arm64()) return BPF_CORE_READ((struct user_pt_regs *)regs, regs[3]);
  return BPF_CORE_READ(regs, r10);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_system_call, struct pt_regs *regs, long id) {
  if (is_arm64() ? id != ARM64_EPOLL_PWAIT && id != EPOLL_PWAIT2
                 : id != X86_EPOLL_WAIT && id != X86_EPOLL_PWAIT && id != EPOLL_PWAIT2)
    return 0;
  struct thread *thread = this_thread(0);
  if (!thread) return 0;
  thread->handling = (struct request){0};
  /* With a pointer to its wait, timers may be due at once. */
  int timeout = id == EPOLL_PWAIT2 ? 0 : epoll_timeout(regs);
  /* Loops count from the time when they last looked, in whole milliseconds: when the latest events came. */
  __u64 looked = thread->first_event ? thread->first_event : thread->asked;
  thread->due = timeout < 0 ? NEVER : timeout > 1 ? looked + (timeout - 1) * MILLISECOND : 0;
  thread->first_event = 0;
  thread->asked = bpf_ktime_get_ns();
  return 0;
}
