/* The parts of the kernel's own types that are read here; the loader finds where they lie in the running kernel. */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define MSG_PEEK 2
#define MSG_DONTWAIT 0x40
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_FIN_WAIT1 4
#define TCP_CLOSE 7
#define TCP_LAST_ACK 9
#define TCP_LISTEN 10

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_MAP_TYPE_SK_STORAGE 24
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_MAP_TYPE_TASK_STORAGE 29
#define BPF_F_NO_PREALLOC 1
#define BPF_F_MMAPABLE 1024
#define BPF_LOCAL_STORAGE_GET_F_CREATE 1
#define BPF_ANY 0
#define BPF_NOEXIST 1

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
  unsigned int inum;
};

struct net {
  struct ns_common ns;
};

typedef struct {
  struct net *net;
} possible_net_t;

struct in6_addr {
  union {
    __be32 u6_addr32[4];
  } in6_u;
};

struct sock_common {
  __be32 skc_daddr;
  __be32 skc_rcv_saddr;
  __be16 skc_dport;
  __u16 skc_num;
  unsigned short skc_family;
  possible_net_t skc_net;
  struct in6_addr skc_v6_daddr;
  struct in6_addr skc_v6_rcv_saddr;
};

struct sock {
  struct sock_common __sk_common;
  __u16 sk_protocol;
};

/* How far the bytes that came were read, and how far they came. */
struct tcp_sock {
  __u32 copied_seq, rcv_nxt;
};

struct thread_struct {
  unsigned long fsbase;
};

struct thread_struct___arm64 {
  struct {
    unsigned long tp_value;
  } uw;
};

struct task_struct {
  __s32 pid;
  __s32 tgid;
  struct task_struct *group_leader;
  __u64 start_boottime, self_exec_id;
  struct thread_struct thread;
};

/* x86-64. */
struct pt_regs {
  unsigned long di, si, dx, cx, r8, r9, r10, bx, r14, ax, bp, sp;
};

/* arm64 has both; what programs see is the second. */
struct user_pt_regs {
  __u64 regs[31];
};

#pragma clang attribute pop

struct bpf_pidns_info {
  __u32 pid;
  __u32 tgid;
};
