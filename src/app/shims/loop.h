/*
 * Which request is the event about that a loop handles? For programs whose loop is known: Node.js, by its libuv.
 *
 * What the loop's thread sends while it handles a request's event, or the response to a call of that request, belongs to
 * the request. To know for sure what is handled, the loop gets one event at a time, and none where it asks without
 * waiting (something of its own is due then), at most once in a row. It asks with the time until its next timer, so none
 * can have fired before. Events of anything else, a name that was looked up, a file, a child, belong to nobody.
 *
 * Unknown while a request waits for something that is not a call: it may be a place in a pool, which somebody else's
 * response makes free. That of a request that has another call open does not show; so where requests have several calls
 * open, what a response brings out is unknown while about as many are open as ever. That of a job of the program's own does
 * not show either; so where there was such a call, or requests had several open, what a response brings out over
 * the connection that it came on is unknown while no other is free. A call that may be anybody's for such a reason, or because
 * a timer was due, makes its response anybody's too.
 */
#pragma once

#define MILLISECOND 1000000ULL
#define NEVER (~0ULL)

/* The loop's own: a coarse one where that is fine enough. */
static clockid_t loop_clock = CLOCK_MONOTONIC;
/* Of the thread that handles events: where its `turn` is. */
static void *_Atomic loop_thread;
static _Atomic int has_more_loops;
/* Requests that wait for something that is not a call. */
static _Atomic uint32_t waiting;

static __thread __attribute__((tls_model("initial-exec"))) struct {
  struct request handling;
  /* When the loop got its latest event, and when a timer may be due: nanoseconds of its clock. */
  uint64_t returned, due;
  int has_skipped;
  /* The event is the response to a call on this connection; and that call may be anybody's. */
  const struct connection *answered;
  int is_doubtful;
} turn;

/* So many calls make the latest ones. The most there may be is lower than what was seen by one in so many. */
#define LATELY 64
#define OWN 8
/* So many times that is remembered what a seldom job does. */
#define LONG 255

/* Calls without a response, the most there were, and whether a request had several: among the latest calls, and before;
   and whether there was such a one, or one of nobody's, for long: when one like it waits, `waiting` does not show that. */
static struct {
  uint32_t open, most_lately, most, n_lately;
  int fans_lately, fans, may_hide;
} calls;

/* How many connections could be used again at once, by the fold of where they lead: nothing waits for a place then. */
static _Atomic uint32_t idle[1 << 16];

int uv_run(void *, int);
#pragma weak uv_run

static void start_loop(void) {
  struct timespec step = {0};
  follows_loop = uv_run != NULL && clock_gettime;
  if (syscall(SYS_clock_getres, CLOCK_MONOTONIC_COARSE, &step) == 0 && !step.tv_sec && step.tv_nsec <= (long)MILLISECOND)
    loop_clock = CLOCK_MONOTONIC_COARSE;
}

static int is_loop(void) { return loop_thread == &turn; }

static uint64_t now(void) {
  struct timespec time = {0};
  if (clock_gettime(loop_clock, &time) != 0) return NEVER;
  return (uint64_t)time.tv_sec * 1000 * MILLISECOND + (uint64_t)time.tv_nsec;
}

static struct connection *unanswered(struct request request) {
  struct connection *c = request.number ? &connections[request.fd] : NULL;
  return c && c->request == request.number ? c : NULL;
}

static void end_request(struct connection *c) {
  if (c->is_counted && !c->open_calls) waiting--;
  c->is_counted = 0;
  c->request = 0;
}

static void count_call(const struct connection *cause, int is_its) {
  if (calls.n_lately++ >= LATELY) {
    calls.most = calls.most_lately;
    calls.fans = calls.fans_lately;
    calls.most_lately = calls.n_lately = 0;
    calls.fans_lately = 0;
    if (calls.may_hide) calls.may_hide--;
  }
  calls.open++;
  if (calls.open > calls.most_lately) calls.most_lately = calls.open;
  if (is_its && cause->open_calls > 1) calls.fans_lately = 1;
  if (!cause || calls.fans_lately) calls.may_hide = LONG;
}

static void begin_idle(struct connection *c) {
  if (c->is_idle) return;
  c->is_idle = 1;
  idle[c->places.fold]++;
}

static void end_idle(struct connection *c) {
  if (!c->is_idle) return;
  c->is_idle = 0;
  idle[c->places.fold]--;
}

/* The response may have made a place free for a call that waits, in a pool or in a limiter of the program's own. */
static int may_free(const struct connection *c) {
  uint32_t most = calls.most > calls.most_lately ? calls.most : calls.most_lately;
  if (!turn.answered) return 0;
  if (out_of_turn) return 1;
  if (calls.may_hide && turn.answered == c && !idle[c->places.fold]) return 1;
  if (!calls.fans && !calls.fans_lately && !(calls.may_hide && c->is_fresh)) return 0;
  return calls.open + 1 + (most + OWN - 1) / OWN >= most;
}

static void close_call(struct connection *c) {
  if (!c->is_open) return;
  c->is_open = 0;
  if (calls.open) calls.open--;
  struct connection *cause = unanswered(c->cause);
  if (!cause || !cause->open_calls) return;
  cause->open_calls--;
  if (cause->is_counted && !cause->open_calls) waiting++;
}

/* `is_its`: nothing but the event can have led here. */
static void open_call(struct connection *c, struct connection *cause, int is_its) {
  c->cause = cause ? turn.handling : (struct request){0};
  c->is_open = 1;
  if (cause) {
    if (cause->is_counted && !cause->open_calls) waiting--;
    cause->open_calls++;
  }
  count_call(cause, is_its);
}

/* Nothing but the event can have led here, as far as the loop goes: no timer is due, and it is known whose the event is. */
static int is_the_events(void) { return !has_more_loops && !turn.is_doubtful && now() < turn.due; }

/* A call begins. True when it is certain whose it is. */
static int begin_call(struct connection *c) {
  struct connection *cause = unanswered(turn.handling);
  end_idle(c);
  uint32_t itself = cause && cause->is_counted && !cause->open_calls;
  int is_the_loops = is_the_events(), frees = may_free(c), is_its = cause && is_the_loops && waiting == itself;
  /* Requests that may be meant instead show in `waiting` until they are answered; jobs do not. */
  c->is_doubtful = !is_the_loops || frees;
  open_call(c, cause, is_its);
  return is_its && !frees;
}

/* The loop has an event of an inbound connection. */
static void event_of_request(int fd, struct connection *c) {
  void *nobody = NULL;
  if (!follows_loop) return;
  if (!atomic_compare_exchange_strong(&loop_thread, &nobody, &turn) && nobody != &turn) has_more_loops = 1;
  if (!c->request) {
    uint32_t next = ++requests;
    c->request = next ? next : ++requests;
    c->open_calls = 0;
    c->is_counted = 1;
    waiting++;
  }
  turn.handling = (struct request){fd, c->request};
  turn.answered = NULL;
  turn.is_doubtful = 0;
}

/* The loop has an event of something else. */
static void event_of_other(struct connection *c, enum role r) {
  if (!is_loop()) return;
  if (r == OUTBOUND) {
    if (c->is_open) begin_idle(c);
    close_call(c);
    turn.handling = c->cause;
    turn.answered = c;
    turn.is_doubtful = c->is_doubtful;
  } else if (!c->is_file) {
    turn.handling = (struct request){0};
  }
}

static void begin_connection(int fd) {
  struct connection *c = known(fd);
  if (!c) return;
  c->is_fresh = 1;
  c->was_sure = is_loop() && begin_call(c);
}

/* More of a call that has begun; or another request's, before the response: then what comes back may be anybody's, too. */
static void share_call(struct connection *c) {
  struct connection *cause = unanswered(turn.handling);
  if (!cause || cause == unanswered(c->cause)) return;
  close_call(c);
  c->is_shared = 1;
  c->cause = (struct request){0};
  c->said = 0;
}

/* A request is answered in an event of another one. */
static int is_anothers_event(const struct connection *c) {
  struct connection *handled = is_loop() ? unanswered(turn.handling) : NULL;
  return handled && handled != c;
}

/* The port of the inbound connection whose request this call belongs to; 0 for unknown. */
static uint16_t cause_in_loop(struct connection *c) {
  if (!is_loop() || c->is_shared) return 0;
  int is_certain = 0;
  if (c->is_fresh) {
    /* Whoever waits may have been given the connection that another one has asked for. */
    is_certain = c->was_sure && !waiting;
  } else if (!c->is_open) {
    is_certain = begin_call(c);
  } else {
    share_call(c);
    return c->said;
  }
  c->is_fresh = 0;
  struct connection *cause = unanswered(c->cause);
  c->said = is_certain && cause ? cause->remote : 0;
  return c->said;
}

/* The loop asks for events. Not zero: it gets none this time. */
static int asks(int timeout) {
  turn.handling = (struct request){0};
  turn.answered = NULL;
  turn.is_doubtful = 0;
  /* It counts from when it last looked at its clock, not before it got that event, in whole milliseconds. */
  uint64_t looked = turn.returned - turn.returned % MILLISECOND;
  turn.due = timeout < 0 ? NEVER : timeout > 0 ? looked + (uint64_t)timeout * MILLISECOND : 0;
  turn.has_skipped = timeout == 0 && !turn.has_skipped;
  if (turn.has_skipped) turn.returned = now();
  return turn.has_skipped;
}

#define WAIT(call)                        \
  if (!is_loop()) return call(max);       \
  if (asks(timeout)) return 0;             \
  int n = call(max > 1 ? 1 : max);        \
  turn.returned = now();                  \
  return n

EXPORT int epoll_wait(int fd, struct epoll_event *events, int max, int timeout) {
  REAL(epoll_wait, SYS_epoll_pwait, fd, events, max, timeout, NULL, 8);
#define CALL(room) real(fd, events, room, timeout)
  WAIT(CALL);
#undef CALL
}

EXPORT int epoll_pwait(int fd, struct epoll_event *events, int max, int timeout, const sigset_t *mask) {
  REAL(epoll_pwait, SYS_epoll_pwait, fd, events, max, timeout, mask, 8);
#define CALL(room) real(fd, events, room, timeout, mask)
  WAIT(CALL);
#undef CALL
}
