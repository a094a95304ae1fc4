/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What a child has to say to the master: frames gathered in the shared ring, written in one go. Thread-safe. */

#include "celeryc/pool/proto.h"

#include <pthread.h>

struct outbox {
    pthread_mutex_t lock; /* guards everything here and the writing end of fd; held while writing */
    pthread_cond_t dirty; /* wakes the flusher */
    int fd;
    struct pool_page *page;
    uint64_t written;           /* stream position up to which the socket has it */
    size_t n_waiting;           /* frames behind it */
    int64_t oldest_ns;          /* when the first of them was put here */
    bool flusher, flusher_idle; /* the thread exists; it waits on dirty */
};

void outbox_init(struct outbox *o, int fd, struct pool_page *page);

/* Puts one whole frame. now: write everything at once; else it leaves with a later one, after 2 ms at the latest, or
 * when enough have gathered. A broken socket ends the process. */
void outbox_put(struct outbox *o, const struct buf *frame, bool now);
void outbox_flush(struct outbox *o);
