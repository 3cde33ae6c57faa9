/*
 * What a runtime works with instead of threads: contexts of Python, goroutines of Go, tasks of tokio. Which request is each of them for?
 *
 * A strand made while a request is worked on is for that request and no later one. One that was made for a connection,
 * before its first request (a server's task that waits for requests), is for whichever request the connection has.
 * What is not known, or may be anybody's, is for none.
 */
#pragma once

/* What a probe in the program finds in the processor's registers. */
static __always_inline __u64 first_argument(struct pt_regs *regs) { return regs->di; }
static __always_inline __u64 second_argument(struct pt_regs *regs) { return regs->si; }
static __always_inline __u64 returned(struct pt_regs *regs) { return regs->ax; }

/* Go passes arguments in registers of its own choice. */
static __always_inline __u64 go_argument(struct pt_regs *regs, int number) {
  return number == 0 ? regs->ax : number == 1 ? regs->bx : number == 2 ? regs->cx : regs->di;
}
static __always_inline __u64 go_goroutine(struct pt_regs *regs) { return regs->r14; }

#define PYTHON 1
#define GO 2
#define LIBUV 3
#define TOKIO 4

/* How to read a process's runtime; src/net/kernel/probes.rs writes it once its self-check has passed. */
struct runtime {
  /* Another program in the same process is not meant. */
  __u64 program;
  /* tokio: how far before the thread's own block its context begins. */
  __u64 context_type;
  __u32 kind;
  /* Python: from a thread's own block to the pointer to its state, and what is where in that. */
  /* tokio: the size of a context, and where in it the running task's number is: known, or as far as was seen. */
  __u32 state_at, id_at, context_at;
  /* Go: the number of a goroutine in its description. tokio: where a table of functions says that of a task's number. */
  __u32 number_at;
  /* Python: a loop outside it reads. Go: newproc1 knows goroutines that are parked at first. */
  __u32 variant;
  /* tokio: the latest task that was found, how many were, and how often was looked. */
  __u64 latest;
  __u32 found, looked;
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 256);
  __type(key, __u32);
  __type(value, struct runtime);
} runtimes SEC(".maps");

/* Who listens for requests, or has read one as an event, to be looked at from outside. */
struct seen {
  __u64 program;
  /* Here, and where the loader lives. */
  __u32 process, visible;
  __u32 what, padding;
};

/* A process to be looked at; a probe that has found what it needs, or never will. */
#define IS_NEW 0
#define FITS 1
#define FITS_NOT 2
#define LISTENS 3

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} seen SEC(".maps");

struct strand_key {
  /* An address, or a goroutine's number. */
  __u64 unit;
  __u32 process, padding;
};

struct strand {
  /* The request that it is for; without number: its connection's. */
  struct request cause;
  /* Strands that were made from one another have one root. */
  __u32 root;
  /* The root's first. */
  __u8 is_first;
  /* What is made from it has nothing in common. */
  __u8 is_shared;
  /* tokio: it has read requests itself; it was woken so often by whoever got the response. */
  __u8 is_reader, wakes;
  /* A goroutine or a task that writes what others hand to this connection. */
  __u64 writes_for;
  /* tokio: what those worked on who woke it, for whom the latest response was, and for whom the call that is open. */
  struct request handed, answered, carries;
  /* tokio: how often a response went to whom the call had come from. */
  __u8 trips;
};

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 16384);
  __type(key, struct strand_key);
  __type(value, struct strand);
} strands SEC(".maps");

/* The inbound connection that a root's strands serve. */
struct root {
  __u32 place, serial;
  /* One of them reads it; then every strand from before the first request serves it, else the first alone. */
  __u8 is_reader;
  /* They serve several. */
  __u8 is_shared;
  /* The one that serves all requests answers them itself, and has begun something since the latest answer. */
  __u8 answers_itself, is_tainted;
};

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 4096);
  __type(key, __u32);
  __type(value, struct root);
} roots SEC(".maps");

__u32 latest_root = 0;

static const struct request NOBODYS = {0, ~0U};

static __always_inline struct runtime *known_runtime(void) {
  __u32 id = this_process();
  struct runtime *runtime = bpf_map_lookup_elem(&runtimes, &id);
  return runtime && runtime->program == this_program() ? runtime : 0;
}

static __always_inline struct runtime *this_runtime(__u32 kind) {
  struct runtime *runtime = known_runtime();
  return runtime && runtime->kind == kind ? runtime : 0;
}

static __always_inline struct strand_key strand_key(__u64 unit) {
  return (struct strand_key){.unit = unit, .process = this_process()};
}

static __always_inline struct strand *strand_of(__u64 unit) {
  struct strand_key key = strand_key(unit);
  return unit ? bpf_map_lookup_elem(&strands, &key) : 0;
}

static __always_inline void set_strand(__u64 unit, const struct strand *strand) {
  struct strand_key key = strand_key(unit);
  bpf_map_update_elem(&strands, &key, strand, BPF_ANY);
}

#define PASSING 8192

/* The latest strands that are of use for one request alone. The list above forgets new ones too when it is full. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, PASSING);
  __type(key, __u32);
  __type(value, struct strand_key);
} passing SEC(".maps");

__u32 latest_passing = 0;

/* Forgets the oldest of them for this one, unless that has come to serve a connection. */
static __always_inline void set_passing_strand(__u64 unit, const struct strand *strand) {
  __u32 index = __sync_fetch_and_add(&latest_passing, 1) % PASSING;
  struct strand_key *place = bpf_map_lookup_elem(&passing, &index);
  if (!place) return;
  struct strand_key oldest = *place;
  struct strand *known = oldest.unit ? bpf_map_lookup_elem(&strands, &oldest) : 0;
  if (known && !known->is_reader && !known->writes_for) bpf_map_delete_elem(&strands, &oldest);
  *place = strand_key(unit);
  set_strand(unit, strand);
}

static __always_inline void forget_strand(__u64 unit, __u32 process) {
  struct strand_key key = {.unit = unit, .process = process};
  if (unit) bpf_map_delete_elem(&strands, &key);
}

/* The connection is closed. */
static __always_inline void forget_carrier(const struct call *call) {
  struct strand_key key = {.unit = call->carried_by, .process = call->process};
  struct strand *carrier = key.unit ? bpf_map_lookup_elem(&strands, &key) : 0;
  if (!carrier) return;
  forget_strand(carrier->writes_for, call->process);
  forget_strand(key.unit, call->process);
}

static __always_inline __u32 new_root(void) {
  __u32 root = __sync_fetch_and_add(&latest_root, 1) + 1;
  return root ? root : 1;
}

/* The request that a strand without one of its own is for now; without number before its connection has any. */
static __always_inline struct request connections_request(const struct strand *strand) {
  struct request none = {0};
  __u32 id = strand->root;
  struct root *root = bpf_map_lookup_elem(&roots, &id);
  if (!root) return none;
  if (root->is_shared || (!root->is_reader && !strand->is_first)) return NOBODYS;
  struct inbound *inbound = inbound_at(root->place);
  if (!inbound || inbound->serial != root->serial) return NOBODYS;
  __u32 number = inbound->number;
  if (!number) root->is_tainted = 1;
  if (!number || (root->answers_itself && root->is_tainted)) return NOBODYS;
  return (struct request){root->place, number};
}

static __always_inline struct request request_of(const struct strand *strand) {
  return strand->cause.number ? strand->cause : connections_request(strand);
}

static __always_inline void serve(__u32 id, const struct inbound *inbound, int is_reader) {
  struct root *root = bpf_map_lookup_elem(&roots, &id);
  if (root) {
    if (root->place != inbound->place || root->serial != inbound->serial) root->is_shared = 1;
    return;
  }
  struct root fresh = {.place = inbound->place, .serial = inbound->serial, .is_reader = is_reader};
  bpf_map_update_elem(&roots, &id, &fresh, BPF_ANY);
}
