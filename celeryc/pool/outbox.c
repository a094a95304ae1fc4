/* SPDX-License-Identifier: Apache-2.0 */
/* The child's way out. Frames are copied to the shared ring first and written from there, so that after a crash the
 * master finds those that had not left. `end` is published only when a frame stands there completely.
 *
 * Frames gather while the thread has more jobs at hand, for one write instead of many. Nobody can know whether the
 * next job is a long one, so a helper thread, started when it is first needed, writes what has waited for 2 ms.
 *
 * A frame larger than half the ring goes straight to the socket, after what is in the ring. While it is on its way,
 * the master may have received more than `end` says: a part of a frame, which dies with the child. */

#include "celeryc/pool/outbox.h"

#include "celeryc/base/clock.h"

#include <errno.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define GATHER_FRAMES 16
#define GATHER_BYTES  (POOL_RING_SIZE / 2)
#define GATHER_NS     (500 * NS_PER_MS / 1000)
#define FLUSHER_NS    (2 * NS_PER_MS)
#define FLUSHER_STACK (64u << 10)

void outbox_init(struct outbox *o, int fd, struct pool_page *page)
{
    *o = (struct outbox){.fd = fd, .page = page};
    (void)pthread_mutex_init(&o->lock, NULL);
    (void)pthread_cond_init(&o->dirty, NULL);
    o->written = atomic_load(&page->end);
}

/* The master is gone, or has given this child up: nobody wants the work any more. */
static void write_all(int fd, struct iovec *iov, int n)
{
    while (n > 0) {
        ssize_t done = writev(fd, iov, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            _exit(0);
        while (n > 0 && (size_t)done >= iov->iov_len) {
            done -= (ssize_t)iov->iov_len;
            iov++;
            n--;
        }
        if (n > 0) {
            iov->iov_base = (char *)iov->iov_base + done;
            iov->iov_len -= (size_t)done;
        }
    }
}

/* Lock held. */
static void flush(struct outbox *o)
{
    uint64_t end = atomic_load_explicit(&o->page->end, memory_order_relaxed);
    size_t len = (size_t)(end - o->written), at = o->written % POOL_RING_SIZE;
    if (len > 0) {
        size_t first = MIN(len, POOL_RING_SIZE - at);
        struct iovec iov[2] = {{o->page->ring + at, first}, {o->page->ring, len - first}};
        write_all(o->fd, iov, len > first ? 2 : 1);
    }
    o->written = end;
    o->n_waiting = 0;
}

/* Lock held. */
static void put_direct(struct outbox *o, const struct buf *frame)
{
    flush(o);
    struct iovec iov = {frame->data, frame->len};
    write_all(o->fd, &iov, 1);
    o->written += frame->len;
    atomic_store(&o->page->end, o->written);
}

/* Lock held. */
static void put_ring(struct outbox *o, const struct buf *frame)
{
    uint64_t end = atomic_load_explicit(&o->page->end, memory_order_relaxed);
    if (end - o->written + frame->len > POOL_RING_SIZE)
        flush(o);
    size_t at = end % POOL_RING_SIZE, first = MIN(frame->len, POOL_RING_SIZE - at);
    memcpy(o->page->ring + at, frame->data, first);
    memcpy(o->page->ring, frame->data + first, frame->len - first);
    atomic_store_explicit(&o->page->end, end + frame->len, memory_order_release);
}

static void *flusher_main(void *arg)
{
    struct outbox *o = arg;
    (void)pthread_mutex_lock(&o->lock);
    for (;;) {
        while (o->n_waiting == 0) {
            o->flusher_idle = true;
            (void)pthread_cond_wait(&o->dirty, &o->lock);
        }
        o->flusher_idle = false;
        int64_t left_ns = o->oldest_ns + FLUSHER_NS - clock_mono_ns();
        if (left_ns <= 0) {
            flush(o);
            continue;
        }
        (void)pthread_mutex_unlock(&o->lock);
        (void)nanosleep(&(struct timespec){.tv_nsec = left_ns}, NULL);
        (void)pthread_mutex_lock(&o->lock);
    }
    return NULL;
}

/* Lock held. Without the thread nothing may wait. */
static void wake_flusher(struct outbox *o)
{
    if (!o->flusher) {
        pthread_attr_t attr;
        pthread_t thread;
        (void)pthread_attr_init(&attr);
        (void)pthread_attr_setstacksize(&attr, FLUSHER_STACK);
        (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        o->flusher = pthread_create(&thread, &attr, flusher_main, o) == 0;
        (void)pthread_attr_destroy(&attr);
        if (!o->flusher)
            flush(o);
    } else if (o->flusher_idle) {
        o->flusher_idle = false;
        (void)pthread_cond_signal(&o->dirty);
    }
}

void outbox_put(struct outbox *o, const struct buf *frame, bool now)
{
    (void)pthread_mutex_lock(&o->lock);
    if (frame->len > POOL_RING_SIZE / 2) {
        put_direct(o, frame);
    } else {
        put_ring(o, frame);
        int64_t now_ns = now ? 0 : clock_mono_ns();
        if (o->n_waiting++ == 0)
            o->oldest_ns = now_ns;
        uint64_t waiting = atomic_load_explicit(&o->page->end, memory_order_relaxed) - o->written;
        if (now || o->n_waiting >= GATHER_FRAMES || waiting >= GATHER_BYTES ||
            now_ns - o->oldest_ns >= GATHER_NS)
            flush(o);
        else
            wake_flusher(o);
    }
    (void)pthread_mutex_unlock(&o->lock);
}

void outbox_flush(struct outbox *o)
{
    (void)pthread_mutex_lock(&o->lock);
    flush(o);
    (void)pthread_mutex_unlock(&o->lock);
}
