// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Which request is the program working on when it sends? Evidence from the kernel for Pillion's linking.
 *
 * Loaded by src/net/kernel. Looks at the connections of one network namespace, never at what they carry. The object
 * beside this file is what bpf/build makes of it.
 */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "state.h"

#include "strands.h"

#include "python.h"

#include "go.h"

#include "sockets.h"

#include "tokio.h"

#include "libuv.h"

#include "hooks.h"

#include "loop.h"

/* What lets the kernel offer the helpers used here. */
char LICENSE[] SEC("license") = "Dual MIT/GPL";
