/*
 * Which request is the thread that sends this call working on? Evidence of Pillion's layer `thread`, by LD_PRELOAD.
 *
 * A thread that reads an inbound connection with blocking calls works on that request until the first byte of its
 * response is written. What the same thread sends elsewhere in between, the request caused. Before bytes leave, a slot of
 * the connection is written in memory that Pillion maps (slots.h); nothing else is kept or sent. The memory is a file,
 * _PILLION_EVIDENCE=PATH, or offered at a socket, _PILLION_EVIDENCE=unix:PATH.
 *
 * loop.h has the rule for one kind of event loop. Unknown stays: what is read without blocking otherwise (other loops,
 * greenlets, virtual threads), calls that another thread sends, programs without a C library of their own (most of Go), io_uring and sendfile. Nothing here can fail a call of
 * the program: every function passes on to the one it hides.
 *
 * Built with -nostdlib: names are found in whatever C library the program has, of whatever version.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Old versions of glibc have it in a library of its own, which the program may not load. */
#pragma weak dlsym
#pragma weak clock_gettime

#define MAX_FD 65536
/* So many requests a thread that has mixed some must take up in turn until it is believed. */
#define IN_TURN 64
/* So many a process must answer. */
#define UNTIL_BELIEVED 1024
#define EXPORT __attribute__((visibility("default")))

#include "slots.h"

enum role { UNKNOWN, INBOUND, OUTBOUND, OTHER };

struct request {
  int fd;
  uint32_t number;
};

/* A descriptor of ours. `request` counts up for each request read from an inbound one; 0 once its response begins. */
struct connection {
  _Atomic uint8_t role, accepted;
  _Atomic uint16_t remote;
  _Atomic uint32_t request;
  struct places places;
  /* Bytes that had come when something was written last: no more than the rest of the request that is answered. */
  _Atomic uint32_t rest;
  /* Below for loop.h. Inbound: calls without a response; it counts in `waiting` as long as there are none. */
  uint32_t open_calls;
  uint8_t is_counted;
  /* Outbound: something was sent and nothing received; opened and nothing sent yet; the cause was certain then. */
  uint8_t is_open, is_fresh, was_sure;
  /* It may be anybody's, a job's of the program's own too. */
  uint8_t is_doubtful;
  /* It counts in `idle`: answered, nothing sent since. */
  uint8_t is_idle;
  /* It carries calls of several at a time. */
  uint8_t is_shared;
  /* A file that is always ready: no event. */
  uint8_t is_file;
  /* What its slot says. */
  uint16_t said;
  struct request cause;
};

static slot *_Atomic slots;
/* 0: whatever connection the program accepts is inbound. */
static uint16_t app_port;
static int at_work;
static struct connection connections[MAX_FD];
static _Atomic uint32_t requests;
/* A request was answered by another thread than the one that had read it, or in an event of another request: so many
   must be answered in turn until what threads, or events of responses, say is believed. */
static _Atomic uint32_t out_of_turn;

/* The request that this thread works on; as long as `mixes` counts, who knows which. */
static __thread __attribute__((tls_model("initial-exec"))) struct {
  int fd;
  uint32_t request, mixes;
} mine;

static int follows_loop;
static struct connection *known(int fd);
static void start_loop(void);
static void end_request(struct connection *c);
static void close_call(struct connection *c);
static void end_idle(struct connection *c);
static void event_of_request(int fd, struct connection *c);
static void event_of_other(struct connection *c, enum role r);
static uint16_t cause_in_loop(struct connection *c);
static int is_anothers_event(const struct connection *c);

static unsigned number(const char *text) {
  unsigned value = 0;
  for (; text && *text >= '0' && *text <= '9'; text++) value = value * 10 + (unsigned)(*text - '0');
  return value;
}

#include "offered.h"

/* What comes after a prefix; NULL where a text does not begin with it. */
static const char *after(const char *text, const char *prefix) {
  while (*prefix && *text == *prefix) text++, prefix++;
  return *prefix ? NULL : text;
}

__attribute__((constructor)) static void start(void) {
  const char *file = getenv("_PILLION_EVIDENCE");
  app_port = (uint16_t)number(getenv("_PILLION_APP_PORT"));
  if (!file) return;
  start_loop();
  const char *path = after(file, "unix:");
  if (path) {
    at_work = offered_at(path);
    return;
  }
  if (!app_port) return;
  int saved = errno;
  int fd = open(file, O_RDWR | O_CLOEXEC);
  if (fd >= 0) {
    void *map = mmap(NULL, SLOTS * sizeof(slot), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) slots = map;
    at_work = map != MAP_FAILED;
    close(fd);
  }
  errno = saved;
}

static struct connection *known(int fd) {
  return at_work && fd >= 0 && fd < MAX_FD ? &connections[fd] : NULL;
}

static void forget(int fd) {
  struct connection *c = known(fd);
  if (!c) return;
  close_call(c);
  end_idle(c);
  end_request(c);
  c->is_fresh = 0;
  c->is_shared = 0;
  c->is_doubtful = 0;
  c->is_file = 0;
  c->said = 0;
  c->cause = (struct request){0};
  c->accepted = 0;
  c->rest = 0;
  c->role = UNKNOWN;
}

static void accepts(int fd) {
  forget(fd);
  struct connection *c = known(fd);
  if (!c) return;
  c->accepted = 1;
  current();
}

static uint16_t port(const struct sockaddr_storage *address) {
  if (address->ss_family == AF_INET) return ntohs(((const struct sockaddr_in *)address)->sin_port);
  if (address->ss_family == AF_INET6) return ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
  return 0;
}

/* Classifies a descriptor at its first use as what it was opened for. */
static enum role role(int fd, struct connection *c) {
  if (c->role != UNKNOWN) return c->role;
  int saved = errno, kind = 0;
  struct sockaddr_storage local = {0}, remote = {0};
  socklen_t kind_size = sizeof kind, local_size = sizeof local, remote_size = sizeof remote;
  enum role found = OTHER;
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &kind_size) == 0 && kind == SOCK_STREAM &&
      getsockname(fd, (struct sockaddr *)&local, &local_size) == 0 && port(&local)) {
    if (getpeername(fd, (struct sockaddr *)&remote, &remote_size) != 0) {
      /* Not connected yet. */
      errno = saved;
      return UNKNOWN;
    }
    c->remote = port(&remote);
    c->places = places_of(port(&local), fold_of(&remote, port(&remote)));
    found = (app_port ? port(&local) == app_port : c->accepted) ? INBOUND : OUTBOUND;
  } else {
    struct stat status = {0};
    c->is_file = syscall(SYS_fstat, fd, &status) == 0 && S_ISREG(status.st_mode);
  }
  errno = saved;
  c->role = found;
  return found;
}

static int is_unanswered(void) { return mine.request && connections[mine.fd].request == mine.request; }

/* Nothing was read but the rest of a request that is answered. */
static int is_rest(struct connection *c, size_t n) {
  size_t rest = c->rest;
  c->rest = n < rest ? (uint32_t)(rest - n) : 0;
  return n <= rest && !c->request;
}

static void has_read(int fd, ssize_t n) {
  struct connection *c = known(fd);
  if (!c || (n < 0 && (errno == EAGAIN || errno == EINTR))) return;
  enum role r = role(fd, c);
  if (r != INBOUND) event_of_other(c, r);
  if (n <= 0 || r != INBOUND) return;
  int saved = errno, flags = fcntl(fd, F_GETFL);
  errno = saved;
  int is_old = is_rest(c, (size_t)n), is_event = flags < 0 || flags & O_NONBLOCK;
  if (is_event || is_old) mine.request = 0;
  /* One that does not block may be read by a thread that then works on something else. */
  if (is_event) event_of_request(fd, c);
  if (is_event || is_old) return;
  int is_new = !c->request;
  if (is_new) {
    uint32_t next = ++requests;
    c->request = next ? next : ++requests;
  }
  /* A thread that takes up a request before it has answered another one works on who knows which. */
  if (is_unanswered() && mine.request != c->request) mine.mixes = IN_TURN;
  else if (is_new && mine.mixes) mine.mixes--;
  mine.fd = fd;
  mine.request = c->request;
}

static uint32_t unread(int fd) {
  int saved = errno, bytes = 0;
  if (syscall(SYS_ioctl, fd, FIONREAD, &bytes) != 0) bytes = 0;
  errno = saved;
  return (uint32_t)bytes;
}

/* The answer to a request begins. */
static void watch_answer(int fd, const struct connection *c) {
  if (!c->request) return;
  int is_another = follows_loop ? is_anothers_event(c) : mine.fd != fd || mine.request != c->request;
  if (is_another) out_of_turn = UNTIL_BELIEVED;
  else if (out_of_turn) out_of_turn--;
}

static void will_write(int fd) {
  struct connection *c = known(fd);
  if (!c) return;
  enum role r = role(fd, c);
  if (r == INBOUND) {
    watch_answer(fd, c);
    end_request(c);
    if (!follows_loop) c->rest = unread(fd);
  } else if (r == OUTBOUND) {
    slot *mapped = current();
    if (!mapped) return;
    uint16_t owner = cause_in_loop(c);
    if (is_unanswered() && !mine.mixes && !out_of_turn) owner = connections[mine.fd].remote;
    say(mapped, c->places, owner);
  }
}

/* The function that ours hides, or where it cannot be found, what it would ask of the kernel. */
#define REAL(name, ...)                               \
  static __typeof__(name) *real;                      \
  if (!real && dlsym) real = dlsym(RTLD_NEXT, #name); \
  if (!real) return syscall(__VA_ARGS__)

#include "loop.h"

EXPORT int connect(int fd, const struct sockaddr *address, socklen_t size) {
  REAL(connect, SYS_connect, fd, address, size);
  forget(fd);
  begin_connection(fd);
  return real(fd, address, size);
}

EXPORT int listen(int fd, int backlog) {
  REAL(listen, SYS_listen, fd, backlog);
  /* Before requests come, and before processes that share the port are forked. */
  if (at_work) current();
  return real(fd, backlog);
}

EXPORT int accept(int fd, struct sockaddr *address, socklen_t *size) {
  REAL(accept, SYS_accept4, fd, address, size, 0);
  int accepted = real(fd, address, size);
  accepts(accepted);
  return accepted;
}

EXPORT int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags) {
  REAL(accept4, SYS_accept4, fd, address, size, flags);
  int accepted = real(fd, address, size, flags);
  accepts(accepted);
  return accepted;
}

EXPORT int close(int fd) {
  REAL(close, SYS_close, fd);
  forget(fd);
  return real(fd);
}

EXPORT int dup2(int from, int to) {
  REAL(dup2, SYS_dup3, from, to, 0);
  forget(to);
  return real(from, to);
}

EXPORT int dup3(int from, int to, int flags) {
  REAL(dup3, SYS_dup3, from, to, flags);
  forget(to);
  return real(from, to, flags);
}

EXPORT ssize_t read(int fd, void *buffer, size_t size) {
  REAL(read, SYS_read, fd, buffer, size);
  ssize_t n = real(fd, buffer, size);
  has_read(fd, n);
  return n;
}

EXPORT ssize_t readv(int fd, const struct iovec *parts, int count) {
  REAL(readv, SYS_readv, fd, parts, count);
  ssize_t n = real(fd, parts, count);
  has_read(fd, n);
  return n;
}

EXPORT ssize_t recv(int fd, void *buffer, size_t size, int flags) {
  REAL(recv, SYS_recvfrom, fd, buffer, size, flags, NULL, NULL);
  ssize_t n = real(fd, buffer, size, flags);
  if (!(flags & MSG_PEEK)) has_read(fd, n);
  return n;
}

EXPORT ssize_t recvfrom(int fd, void *restrict buffer, size_t size, int flags, struct sockaddr *restrict address,
                        socklen_t *restrict address_size) {
  REAL(recvfrom, SYS_recvfrom, fd, buffer, size, flags, address, address_size);
  ssize_t n = real(fd, buffer, size, flags, address, address_size);
  if (!(flags & MSG_PEEK)) has_read(fd, n);
  return n;
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
  REAL(recvmsg, SYS_recvmsg, fd, message, flags);
  ssize_t n = real(fd, message, flags);
  if (!(flags & MSG_PEEK)) has_read(fd, n);
  return n;
}

/* What the compiler makes of the above where it knows the buffer's size. */
ssize_t __read_chk(int, void *, size_t, size_t);
ssize_t __recv_chk(int, void *, size_t, size_t, int);
ssize_t __recvfrom_chk(int, void *restrict, size_t, size_t, int, struct sockaddr *restrict, socklen_t *restrict);

EXPORT ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room) {
  REAL(__read_chk, SYS_read, fd, buffer, size);
  ssize_t n = real(fd, buffer, size, room);
  has_read(fd, n);
  return n;
}

EXPORT ssize_t __recv_chk(int fd, void *buffer, size_t size, size_t room, int flags) {
  REAL(__recv_chk, SYS_recvfrom, fd, buffer, size, flags, NULL, NULL);
  ssize_t n = real(fd, buffer, size, room, flags);
  if (!(flags & MSG_PEEK)) has_read(fd, n);
  return n;
}

EXPORT ssize_t __recvfrom_chk(int fd, void *restrict buffer, size_t size, size_t room, int flags,
                              struct sockaddr *restrict address, socklen_t *restrict address_size) {
  REAL(__recvfrom_chk, SYS_recvfrom, fd, buffer, size, flags, address, address_size);
  ssize_t n = real(fd, buffer, size, room, flags, address, address_size);
  if (!(flags & MSG_PEEK)) has_read(fd, n);
  return n;
}

EXPORT ssize_t write(int fd, const void *buffer, size_t size) {
  REAL(write, SYS_write, fd, buffer, size);
  will_write(fd);
  return real(fd, buffer, size);
}

EXPORT ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(writev, SYS_writev, fd, parts, count);
  will_write(fd);
  return real(fd, parts, count);
}

EXPORT ssize_t send(int fd, const void *buffer, size_t size, int flags) {
  REAL(send, SYS_sendto, fd, buffer, size, flags, NULL, 0);
  will_write(fd);
  return real(fd, buffer, size, flags);
}

EXPORT ssize_t sendto(int fd, const void *buffer, size_t size, int flags, const struct sockaddr *address,
                      socklen_t address_size) {
  REAL(sendto, SYS_sendto, fd, buffer, size, flags, address, address_size);
  will_write(fd);
  return real(fd, buffer, size, flags, address, address_size);
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  REAL(sendmsg, SYS_sendmsg, fd, message, flags);
  will_write(fd);
  return real(fd, message, flags);
}
