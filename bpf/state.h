/*
 * What is remembered, and what user space reads.
 *
 * `slots` is the only map that user space reads for each call, and reads without a system call. Its shape is fixed by
 * LAYOUT, which stands in the first word: whoever loads these programs writes it, whoever maps the array compares it.
 */
#pragma once

#define PORTS 65536
#define MILLISECOND 1000000ULL
/* Event loops know no shorter timer; theirs count from whole milliseconds. */
#define SHORTEST_TIMER (MILLISECOND / 2)

/* Set by the loader. */
const volatile __u32 network = 0;
const volatile __u64 pid_namespace_dev = 0;
const volatile __u64 pid_namespace = 0;
const volatile __u32 sidecar_pid = 0;
/* The program listens there, 0: that is not known; and requests go to no other port. */
const volatile __u32 program_port = 0;
const volatile __u32 has_one_port = 0;
/* Event loops without a probe are followed too: `on_system_call` is attached. */
const volatile __u32 follows_events = 0;

/*
 * Evidence about an outgoing connection, in one of its two places; src/net/kernel/slots.rs reads it. Each word, from the
 * top: 16 bits port from which the inbound connection was opened (0: none), 16 bits fold of the connection's remote
 * address and port, 30 bits time of the write in units of 1,024 ns, 1 bit which of the two places this is, 1 bit set
 * when nothing speaks against it. Fold, place, and which of the two it is give the connection's local port.
 */
struct slot {
  __u64 thread, lineage, runtime, unused;
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, PORTS);
  __type(key, __u32);
  __type(value, struct slot);
} slots SEC(".maps");

/* A connection as Pillion sees it. Addresses of IPv6 are folded. */
struct ends {
  __u32 near, far;
  __u16 near_port, far_port;
};

/* The connections that Pillion has opened. Only those that a program reads are to the program. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, PORTS);
  __type(key, struct ends);
  __type(value, __u8);
} opened SEC(".maps");

/* A connection from Pillion to the program, in one of its two places, with the request that the program works on. */
struct inbound {
  struct ends ends;
  __u32 place;
  /* It counts in its process's `waiting`, as long as no call of its own is open. */
  __u32 is_counted;
  /* Counts up for each request read; 0 once its response begins. */
  __u32 number;
  /* How far bytes had come when the program sent last: no further than the request that it has answered. */
  __u32 came;
  __u32 has_sent;
  /* Calls without a response. */
  __u32 open_calls;
  __u32 process, program;
  /* Differs from one connection to the next. */
  __u32 serial;
  /* tokio: the task. */
  __u64 read_by;
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, PORTS);
  __type(key, __u32);
  __type(value, struct inbound);
} inbounds SEC(".maps");

/* A request, as long as `inbounds` says that this number is worked on there. */
struct request {
  __u32 place, number;
};

/* A socket of the program that it opened, or one of Pillion's. */
struct call {
  struct request cause;
  /* Who opened it. */
  __u32 process;
  /* What it has said so far stands in its slot as this. */
  struct request said_thread, said_runtime;
  /* Of one of Pillion's, once it is open. */
  struct ends ends;
  __u8 is_sidecars;
  /* Opened, nothing sent yet. */
  __u8 is_fresh;
  /* Something was sent, nothing received. */
  __u8 is_open;
  /* `cause` was certain when the connection was opened. */
  __u8 was_sure;
  /* It may be anybody's, a job's of the program's own too. */
  __u8 is_doubtful;
  /* It counts in `idle`: answered, nothing sent since. */
  __u8 is_idle;
  /* It counts in its process's `open_calls`. */
  __u8 is_counted;
  /* Node.js: begun before the probe, or brought out by the response to such a one: whose it is cannot be known. */
  __u8 is_older;
  /* It carries several calls at a time, or others than one task of tokio write to it. */
  __u8 is_shared;
  /* tokio: what is known of the task that writes to it, as `trips` in a strand. */
  __u8 trips;
  /* tokio: the task that opened it. tokio and Go: the one that writes to it what others hand over. */
  __u64 opened_by, carried_by;
};

/* Where a process's connections lead to. */
struct destination {
  __u32 process, address, port;
};

/* How many connections a process could use again at once, by destination: nothing waits for a place then. */
struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 1024);
  __type(key, struct destination);
  __type(value, __s32);
} idle SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct call);
} calls SEC(".maps");

struct thread {
  /* Read by blocking calls: what this thread works on until it has answered. */
  struct request serving;
  /* What the event was about that this thread handles; nothing after it asked for new events. */
  struct request handling;
  /* Python: what was read outside every context, and the context in which the program is told of it. */
  struct request arrived, delivered;
  __u64 delivers_in;
  /* Go: the goroutine that is starting another one. */
  __u64 starts_from;
  /* tokio: the header of the task that began to run the latest time. */
  __u64 polls;
  /* The latest event was the response to a call from this port. */
  __u16 answered_port;
  /* That call was begun before the probe. */
  __u8 answered_older;
  /* A connection was accepted, nothing made for it yet. */
  __u8 has_accepted;
  /* It has read a request before it answered another one: so many it must read in turn until it is believed. */
  __u8 mixes;
  /* The latest event was the response to a call that may be anybody's. */
  __u8 is_doubtful;
  /* The first event since this thread asked for events (0: none yet), when it asked, and when a timer may be due. */
  __u64 first_event, asked, due;
};

struct {
  __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct thread);
} threads SEC(".maps");

/* A process that has read requests without blocking. */
struct process {
  __u64 program;
  /* The only thread that handles events, and whether another one did. */
  __u32 loop, has_more_loops;
  /* Requests that wait for something that is not a call. */
  __u32 waiting;
  /* User space was told of it. */
  __u32 is_announced;
  /* Node.js: calls without a response, and how many the latest ones were at most, and the ones before them. */
  __s32 open_calls, most_lately, most;
  __u32 n_lately;
  /* Among the latest calls, and the ones before them: one of a request that had another open. */
  __u8 fans_lately, fans;
  /* Counts down with so many calls each since there was such a one, or one of nobody's. When one like it waits for a
   * place, `waiting` does not show that. */
  __u8 may_hide;
  /* It was seen that not whoever seemed to work on a request did so: so many must be answered until it is believed again
   * what threads say that block, events of responses, and strands that were made for a request. */
  __u32 is_mixed;
  __u32 padding;
};

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 1024);
  __type(key, __u32);
  __type(value, struct process);
} processes SEC(".maps");

/* Pillion itself, once it has opened a connection, and the number of the latest request. */
__u32 sidecar = 0;
__u32 requests = 0;

/*
 * A connection's two places in an array of PORTS, by its port at one end and a fold of its other end. No two ports have
 * the same with one fold; with different folds they meet by chance alone: programs often open connections from the same
 * ports in the same order to several addresses. src/net/kernel/slots.rs does the same.
 */
static __always_inline __u32 place_of(__u32 port, __u32 fold, int is_second) {
  __u32 factor = is_second ? fold * 0x85ebu ^ 0x27d4u : fold * 0x9e37u;
  return (port * (factor | 1) + fold) & (PORTS - 1);
}

static __always_inline struct inbound *inbound_at(__u32 place) { return bpf_map_lookup_elem(&inbounds, &place); }

/* The connection of a request that is still worked on. */
static __always_inline struct inbound *unanswered(const struct request *request) {
  if (!request->number) return 0;
  struct inbound *inbound = inbound_at(request->place);
  return inbound && inbound->number == request->number ? inbound : 0;
}

static __always_inline struct thread *this_thread(__u64 flags) {
  return bpf_task_storage_get(&threads, bpf_get_current_task_btf(), 0, flags);
}

/* Which program this is of those that ran in processes of this number, one after the other, forked or not. */
static __always_inline __u64 this_program(void) {
  struct task_struct *task = bpf_get_current_task_btf();
  return task->group_leader->start_boottime + task->self_exec_id;
}

static __always_inline __u32 this_process(void) {
  return bpf_get_current_pid_tgid() >> 32;
}

/* The process's number where the loader lives; 0 when it is out of sight. */
static __always_inline __u32 visible_pid(void) {
  struct bpf_pidns_info here = {0};
  long error = bpf_get_ns_current_pid_tgid(pid_namespace_dev, pid_namespace, &here, sizeof here);
  return error ? 0 : here.tgid;
}

static __always_inline int is_sidecar(void) {
  if (!sidecar && visible_pid() == sidecar_pid) sidecar = this_process();
  return sidecar == this_process();
}

static __always_inline struct process *known_process(__u32 id) {
  return bpf_map_lookup_elem(&processes, &id);
}

/* So many answers must a process that has mixed requests up give until it is believed. What may have other reasons once,
 * as a lock, counts as so many; below a number it is no more than suspicious. */
#define UNTIL_BELIEVED 1024
#define SUSPICION 32
#define SUSPICIOUS 64

static __always_inline int mixes_up(const struct process *process) { return process->is_mixed > SUSPICIOUS; }

static __always_inline int is_mixed_up(void) {
  struct process *process = known_process(this_process());
  return process && mixes_up(process) && process->program == this_program();
}

static __always_inline void set_mixed_up(void) {
  struct process *process = known_process(this_process());
  if (process) process->is_mixed = UNTIL_BELIEVED;
}

static __always_inline void suspect(void) {
  struct process *process = known_process(this_process());
  if (!process) return;
  if (!mixes_up(process)) process->is_mixed += SUSPICION;
  if (mixes_up(process)) process->is_mixed = UNTIL_BELIEVED;
}

static __always_inline void count_answer(void) {
  struct process *process = known_process(this_process());
  if (process && process->is_mixed) process->is_mixed--;
}
