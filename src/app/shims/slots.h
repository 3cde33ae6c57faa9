/*
 * The slots that Pillion maps and reads, see src/net/evidence.rs: 65,536 words of 64 bits, and two places for each
 * connection of the program, which follow from its port and the remote address.
 *
 * A word, from the top: 16 bits port from which the inbound connection was opened (0: none), 16 bits fold of the
 * connection's remote address and port, 30 bits time of the write in units of 1,024 ns of the monotonic clock, 1 bit which
 * of the two places this is, 1 bit always set. Fold, place, and which of the two it is give the connection's local port.
 */
#pragma once

#define SLOTS 65536
#define TIME_MASK 0x3fffffffu

typedef _Atomic uint64_t slot;

/* Where words about a connection lie. */
struct places {
  uint16_t fold, first, second;
};

static uint32_t mixed(uint32_t before, uint32_t word) {
  uint32_t product = (before ^ word) * 0x9e3779b1u;
  return product ^ product >> 15;
}

/* An address of IPv4 counts the same where it is written as one of IPv6. */
static uint16_t fold_of(const struct sockaddr_storage *remote, uint16_t port) {
  uint32_t so_far = 0;
  if (remote->ss_family == AF_INET6) {
    const struct in6_addr *address = &((const struct sockaddr_in6 *)remote)->sin6_addr;
    for (int i = IN6_IS_ADDR_V4MAPPED(address) ? 3 : 0; i < 4; i++) so_far = mixed(so_far, address->s6_addr32[i]);
  } else {
    so_far = mixed(so_far, ((const struct sockaddr_in *)remote)->sin_addr.s_addr);
  }
  return (uint16_t)(mixed(so_far, port) >> 16);
}

/* For each fold, every local port has places of its own. */
static struct places places_of(uint16_t local, uint16_t fold) {
  uint32_t first = fold * 0x9e37u | 1, second = (fold * 0x85ebu ^ 0x27d4u) | 1;
  return (struct places){fold, (uint16_t)(local * first + fold), (uint16_t)(local * second + fold)};
}

static uint32_t word_time(void) {
  struct timespec time = {0};
  if (clock_gettime) clock_gettime(CLOCK_MONOTONIC, &time);
  else syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &time);
  return (uint32_t)(((uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec) >> 10) & TIME_MASK;
}

static int is_own(uint64_t word, uint16_t fold, unsigned is_second) {
  return (word & 1) && (uint16_t)(word >> 32) == fold && (word >> 1 & 1) == is_second;
}

static uint32_t age(uint64_t word, uint32_t now) { return word ? (now - (uint32_t)(word >> 2)) & TIME_MASK : ~0u; }

/* Says for which inbound port the next bytes of a connection are: where it has said something already, or else over the
   older word. */
static void say(slot *slots, struct places places, uint16_t inbound) {
  slot *one = &slots[places.first], *two = &slots[places.second];
  uint64_t first = atomic_load_explicit(one, memory_order_relaxed);
  uint64_t second = atomic_load_explicit(two, memory_order_relaxed);
  uint32_t now = word_time();
  uint64_t is_second = !is_own(first, places.fold, 0) &&
                       (is_own(second, places.fold, 1) || age(second, now) > age(first, now));
  uint64_t word = (uint64_t)inbound << 48 | (uint64_t)places.fold << 32 | (uint64_t)now << 2 | is_second << 1 | 1;
  atomic_store_explicit(is_second ? two : one, word, memory_order_release);
}
