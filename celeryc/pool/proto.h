/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The pool's protocol: frames on the sockets, and the page that master and child share. docs/POOL_PROTOCOL.md is the
 * description for people; the two change together, and POOL_PROTO_VERSION with them. */

#include "celeryc/base/buf.h"
#include "celeryc/task/cursor.h"

#include <stdatomic.h>

#define POOL_PROTO_VERSION 1

enum frame_type {
    /* master -> zygote */
    FRAME_SETTINGS =
        1, /* body: node, default_queue, flags, f64 time limits, u32 priority; before the first SPAWN */
    FRAME_SPAWN = 2,  /* id = child; body: process name, u32 threads; carries socket and page */
    FRAME_SIGNAL = 3, /* id = child; body: u32 signal, u32 asked */
    /* zygote -> master */
    FRAME_TABLE = 16,   /* body: the encoded task table */
    FRAME_ERROR = 17,   /* body: why there will be no table */
    FRAME_SPAWNED = 18, /* id = child; body: u32 pid, u32 errno (pid 0: fork failed) */
    FRAME_EXITED = 19,  /* id = child; body: u32 wait status, u32 oom */
    /* master -> child */
    FRAME_JOB = 32,    /* id = job; body: u32 slot, u64 generation, queue, raw */
    FRAME_FINISH = 33, /* no more jobs: finish what was started, exit */
    /* child -> master */
    FRAME_HELLO = 48, /* id = child; body: u32 pid */
    FRAME_DONE = 49,  /* id = job; body: u32 slot, outcome */
    FRAME_STATE = 50, /* id = job; body: u32 slot, record */
    FRAME_SEND = 51,  /* id = job; body: u32 slot, queue, u32 priority, raw */
    FRAME_APPLY = 52, /* id = job; body: u32 slot, outcome of which only the lists count */
};

/* u32 body length | u8 type | u8 version | u16 0 | u64 id */
#define FRAME_HEADER_SIZE 16

struct frame {
    enum frame_type type;
    uint64_t id;
    struct slice body;
};

#define FRAME_E_MORE \
    1 /* not all of it is there; ret_size says how much it takes when the header is */

/* The frame at the front of bytes, and its whole size. 0; FRAME_E_MORE (ret_size 0: not even the header);
 * -EPROTO: no frame of this version, or one that is over the limit. */
int frame_parse(struct slice bytes, struct frame *ret_f, size_t *ret_size) WARN_UNUSED;

/* frame_begin writes the header, the caller appends the body, frame_end fills the length in. */
size_t frame_begin(struct buf *dst, enum frame_type type, uint64_t id);
void frame_end(struct buf *dst, size_t at);
void frame_header(unsigned char dst[FRAME_HEADER_SIZE], enum frame_type type, uint64_t id,
                  size_t body_len);

/* ---- the shared page ----
 * A slot is one job that the child has and has not reported. Its state moves by compare-and-swap only:
 *
 *     SENT --child--> RUNNING --child--> FINISHED
 *       \--master--> RECALLED  \--master--> KILLED
 *
 * so that a job is started by the child or taken back by the master, never both; and finished by the child or killed
 * by the master, never both: a child that finds its job KILLED waits for the signal instead of taking another. The
 * generation makes a slot usable again at once while an old frame for it may still be on the way. */

enum slot_state {
    SLOT_FREE,
    SLOT_SENT,
    SLOT_RUNNING,
    SLOT_FINISHED,
    SLOT_RECALLED,
    SLOT_KILLED,
};

struct pool_slot {
    _Atomic uint64_t state;   /* generation << 8 | enum slot_state */
    _Atomic int64_t start_ns; /* CLOCK_MONOTONIC */
    _Atomic uint32_t stop;    /* set by the master: celeryc_should_stop */
    uint32_t unused;
};

static inline uint64_t slot_word(uint64_t generation, enum slot_state s)
{
    return generation << 8 | (uint64_t)s;
}

static inline bool slot_move(struct pool_slot *slot, uint64_t generation, enum slot_state from,
                             enum slot_state to)
{
    uint64_t expected = slot_word(generation, from);
    return atomic_compare_exchange_strong(&slot->state, &expected, slot_word(generation, to));
}

#define POOL_PAGE_MAGIC 0x43435031u
#define POOL_RING_SIZE  (32u << 10) /* power of two */

/* Frames that the child finished but may not have written to its socket yet: byte p of the child's stream stands at
 * ring[p % POOL_RING_SIZE]; end is the length of the stream so far. When the child dies, the master, which counts what
 * it received, reads the rest here: a finished job is never lost with the one that crashed. */
struct pool_page {
    uint32_t magic, version;
    uint32_t n_slots, ring_size;
    _Atomic uint64_t end;
    unsigned char ring[POOL_RING_SIZE];
    struct pool_slot slots[];
};

static inline size_t pool_page_size(size_t n_slots)
{
    return sizeof(struct pool_page) + n_slots * sizeof(struct pool_slot);
}

/* ---- child.c, called by the zygote in the forked process ---- */

struct task_registry;
struct task_settings;

struct child_options {
    int fd;      /* stream socket to the master, blocking */
    int page_fd; /* memfd */
    uint64_t id;
    uint32_t threads;
    const struct task_registry *registry;
    const struct task_settings *settings;
};

void child_main(const struct child_options *o) __attribute__((noreturn));
