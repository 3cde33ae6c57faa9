/*
 * The slots where Pillion is a process of its own, as in a pod: it offers the memory at a socket in a shared directory.
 *
 * Asked for when the program opens a port, later where Pillion was not there yet, and again when the socket is another
 * one, as Pillion may start anew. Whatever answers: the program waits WAIT_MS at most, then goes on without for a while. System
 * calls are made directly, so that our own functions do not see them and no thread is cancelled inside.
 */
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#define WAIT_MS 20
/* Between looks whether the socket is another one, and the longest between attempts that fail, in seconds. */
#define LOOK_S 1
#define LONGEST_S 32
/* What Pillion says first, see src/net/evidence/offer.rs. */
#define GREETING "pillion-evidence 2\n"

/* Old versions of glibc have it in a library of its own. */
#pragma weak clock_gettime

static struct sockaddr_un offered;
/* When to look again, in seconds of the monotonic clock. Who moves it is the one that looks; a child of a process that was
   looking waits until then. */
static _Atomic int64_t due;
/* The socket that the slots are from. */
static uint64_t socket_device, socket_inode;
static struct timespec socket_changed;
static int64_t patience;

/* Keeps where to ask; 0 when that is no path of a socket. */
static int offered_at(const char *path) {
  size_t size = 0;
  for (; path[size]; size++) {
    if (size + 1 >= sizeof offered.sun_path) return 0;
    offered.sun_path[size] = path[size];
  }
  if (size) offered.sun_family = AF_UNIX;
  return size != 0;
}

static int64_t seconds(void) {
  struct timespec now = {0};
  if (clock_gettime) clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  else syscall(SYS_clock_gettime, CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec;
}

/* A descriptor of memory of the right size that nobody can make smaller; -1 for anything else. */
static int receive_memory(void) {
  struct timeval wait = {0, WAIT_MS * 1000};
  char greeting[sizeof GREETING] = "";
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct iovec part = {greeting, sizeof greeting};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  int fd = (int)syscall(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), memory = -1;
  if (fd < 0) return -1;
  if (syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) == 0 &&
      syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait) == 0 &&
      syscall(SYS_connect, fd, &offered, sizeof offered) == 0) {
    long n = syscall(SYS_recvmsg, fd, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    int fits = n == sizeof GREETING - 1;
    for (size_t i = 0; i < sizeof GREETING - 1; i++) fits &= greeting[i] == GREETING[i];
    if (n >= 0 && header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
      /* Padding may have let in more than one. */
      size_t files = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < files; i++) {
        if (memory >= 0) syscall(SYS_close, memory);
        memory = ((const int *)(const void *)CMSG_DATA(header))[i];
      }
      fits &= files == 1;
    }
    if (memory >= 0 && !(fits && syscall(SYS_lseek, memory, 0, SEEK_END) == (long)(SLOTS * sizeof(slot)) &&
                         syscall(SYS_fcntl, memory, F_GET_SEALS) > 0 &&
                         syscall(SYS_fcntl, memory, F_GET_SEALS) & F_SEAL_SHRINK)) {
      syscall(SYS_close, memory);
      memory = -1;
    }
  }
  syscall(SYS_close, fd);
  return memory;
}

/* Maps what is offered where that is due, over what was mapped before: other threads may be writing there. */
static void look(int64_t now) {
  struct stat found;
  if (syscall(SYS_newfstatat, AT_FDCWD, offered.sun_path, &found, 0) == 0) {
    int same = slots && found.st_dev == socket_device && found.st_ino == socket_inode &&
               found.st_ctim.tv_sec == socket_changed.tv_sec && found.st_ctim.tv_nsec == socket_changed.tv_nsec;
    int memory = same ? -1 : receive_memory();
    if (memory >= 0) {
      int flags = MAP_SHARED | (slots ? MAP_FIXED : 0);
      void *map = mmap(slots, SLOTS * sizeof(slot), PROT_READ | PROT_WRITE, flags, memory, 0);
      syscall(SYS_close, memory);
      if (map != MAP_FAILED) {
        slots = map;
        socket_device = found.st_dev;
        socket_inode = found.st_ino;
        socket_changed = found.st_ctim;
        same = 1;
      }
    }
    if (same) {
      patience = 0;
      due = now + LOOK_S;
      return;
    }
  }
  patience = patience ? patience * 2 : LOOK_S;
  if (patience > LONGEST_S) patience = LONGEST_S;
  due = now + patience;
}

/* The slots as they are now; NULL while there are none. */
static slot *current(void) {
  if (!offered.sun_family) return slots;
  int64_t now = seconds(), was = due;
  if (now < was || !atomic_compare_exchange_strong(&due, &was, now + LOOK_S)) return slots;
  int saved = errno;
  look(now);
  errno = saved;
  return slots;
}
