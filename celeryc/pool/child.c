/* SPDX-License-Identifier: Apache-2.0 */
/* A child: T threads that take jobs from one socket, run them, and put what came of them into the outbox.
 *
 * The threads take turns at the socket: whoever holds `input` takes the next frame out of the buffer, or waits in
 * read(2) for one, and lets go before it runs the job. A single thread therefore wakes at once and never hands over.
 *
 * End of the socket means that the master has gone or has given this child up: the process ends at once, in the
 * middle of whatever it does, because others may already restore that work. FINISH means: no more jobs, end when the
 * last running one is reported. What must never happen: a job started that the master has recalled. */

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/pool/outbox.h"
#include "celeryc/task/run.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define INPUT_SIZE (32u << 10)
#define KEEP_BYTES (256u << 10) /* a thread gives larger buffers back after the job */

struct child {
    const struct child_options *o;
    struct pool_page *page;
    struct outbox outbox;

    pthread_mutex_t
        input; /* guards the next four and the reading end of the socket; no other lock is taken with it,
                              but the outbox's */
    unsigned char *in;
    size_t in_pos, in_len;
    bool finishing;

    _Atomic size_t at_hand;   /* bytes of unread input, a hint for the outbox */
    _Atomic uint32_t running; /* threads that have not ended */
};

/* One thread and the job it has. */
struct runner {
    struct child *child;
    struct arena *arena;
    struct buf job;     /* the frame's body */
    struct buf outcome; /* what task_run made of it */
    struct buf frame;   /* the one being made */
    uint64_t id, generation;
    uint32_t index;
    struct slice queue, raw;
};

static void __attribute__((noreturn)) die(const char *why)
{
    (void)fprintf(stderr, "celeryc pool child: %s\n", why);
    _exit(70);
}

/* ---- input; the lock is held ---- */

static void read_some(struct child *c, void *dst, size_t max, size_t *ret_n)
{
    for (;;) {
        ssize_t n = read(c->o->fd, dst, max);
        if (n > 0) {
            *ret_n = (size_t)n;
            return;
        }
        if (n == 0 || errno == ECONNRESET)
            _exit(0);
        if (errno != EINTR)
            die("cannot read from the master");
    }
}

static size_t available(const struct child *c)
{
    return c->in_len - c->in_pos;
}

static void need(struct child *c, size_t n)
{
    if (available(c) < n)
        outbox_flush(&c->outbox); /* nothing waits while we do */
    while (available(c) < n) {
        if (c->in_pos > 0) {
            memmove(c->in, c->in + c->in_pos, available(c));
            c->in_len -= c->in_pos;
            c->in_pos = 0;
        }
        size_t got;
        read_some(c, c->in + c->in_len, INPUT_SIZE - c->in_len, &got);
        c->in_len += got;
    }
}

/* The next frame; its body goes to r->job, the part that is not in the buffer yet straight from the socket. */
static void next_frame(struct child *c, struct runner *r, enum frame_type *ret_type)
{
    need(c, FRAME_HEADER_SIZE);
    struct frame f = {0};
    size_t size;
    int rc = frame_parse((struct slice){(char *)c->in + c->in_pos, available(c)}, &f, &size);
    if (rc < 0)
        die("the master speaks another protocol");
    struct cursor head = cursor_init((struct slice){(char *)c->in + c->in_pos, FRAME_HEADER_SIZE});
    (void)cursor_u32(&head);
    *ret_type = cursor_u8(&head);
    (void)cursor_take(&head, 3);
    r->id = cursor_u64(&head);
    size_t body = size - FRAME_HEADER_SIZE;
    c->in_pos += FRAME_HEADER_SIZE;
    buf_reset(&r->job);
    buf_reserve(&r->job, body);
    if (buf_ok(&r->job) < 0)
        die("out of memory for a job");
    size_t here = MIN(body, available(c));
    buf_append(&r->job, c->in + c->in_pos, here);
    c->in_pos += here;
    while (r->job.len < body) {
        size_t got;
        read_some(c, r->job.data + r->job.len, body - r->job.len, &got);
        r->job.len += got;
    }
    atomic_store_explicit(&c->at_hand, available(c), memory_order_relaxed);
}

/* Reads the job's fields and starts it. False: the master has taken it back. */
static bool start_job(struct child *c, struct runner *r)
{
    struct cursor body = cursor_init(buf_slice(&r->job));
    r->index = cursor_u32(&body);
    r->generation = cursor_u64(&body);
    r->queue = cursor_slice(&body);
    r->raw = cursor_rest(&body);
    if (body.bad || r->index >= c->page->n_slots)
        die("a broken job frame");
    struct pool_slot *slot = &c->page->slots[r->index];
    atomic_store_explicit(&slot->start_ns, clock_mono_ns(), memory_order_relaxed);
    return slot_move(slot, r->generation, SLOT_SENT, SLOT_RUNNING);
}

/* True: r has a job, already started. False: no more jobs. */
static bool take_job(struct child *c, struct runner *r)
{
    bool have = false;
    (void)pthread_mutex_lock(&c->input);
    while (!have && !c->finishing) {
        enum frame_type type;
        next_frame(c, r, &type);
        if (type == FRAME_FINISH)
            c->finishing = true;
        else if (type == FRAME_JOB)
            have = start_job(c, r);
    }
    (void)pthread_mutex_unlock(&c->input);
    return have;
}

/* ---- output ---- */

static size_t begin(struct runner *r, enum frame_type type)
{
    buf_reset(&r->frame);
    size_t at = frame_begin(&r->frame, type, r->id);
    buf_append_u32le(&r->frame, r->index);
    return at;
}

static void send_now(struct runner *r, size_t at)
{
    frame_end(&r->frame, at);
    if (buf_ok(&r->frame) == 0)
        outbox_put(&r->child->outbox, &r->frame, true);
}

static void host_state(void *arg, struct slice record)
{
    struct runner *r = arg;
    size_t at = begin(r, FRAME_STATE);
    buf_append_slice(&r->frame, record);
    send_now(r, at);
}

static void host_send(void *arg, struct slice queue, int priority, struct slice raw)
{
    struct runner *r = arg;
    size_t at = begin(r, FRAME_SEND);
    cursor_put_slice(&r->frame, queue);
    buf_append_u32le(&r->frame, (uint32_t)priority);
    buf_append_slice(&r->frame, raw);
    send_now(r, at);
}

static int host_apply(void *arg, const struct outcome *o)
{
    struct runner *r = arg;
    size_t at = begin(r, FRAME_APPLY);
    int rc = outcome_encode(o, &r->frame);
    if (rc == 0 && r->frame.len - at - FRAME_HEADER_SIZE > LIMIT_FRAME_BYTES)
        return -E2BIG;
    frame_end(&r->frame, at);
    if (rc < 0 || buf_ok(&r->frame) < 0)
        return -ENOMEM;
    outbox_put(&r->child->outbox, &r->frame, true);
    return 0;
}

/* The master wants this job dead and has sent the signal. */
static void __attribute__((noreturn)) await_signal(void)
{
    for (;;)
        (void)pause();
}

static void run_job(struct child *c, struct runner *r)
{
    struct pool_slot *slot = &c->page->slots[r->index];
    struct task_host host = {
        .state = host_state,
        .send = host_send,
        .apply = host_apply,
        .stop = &slot->stop,
        .arg = r,
    };
    /* The frame buffer is shared with state and send frames, so the outcome is appended when they are over. */
    buf_reset(&r->outcome);
    int rc = r->queue.p ? task_run(c->o->registry, c->o->settings, &host, r->arena, r->queue,
                                   r->raw, &r->outcome)
                        : task_run_errback(c->o->registry, c->o->settings, &host, r->arena, r->raw,
                                           &r->outcome);
    if (rc < 0 || buf_ok(&r->outcome) < 0)
        die("out of memory for a result");
    size_t at = begin(r, FRAME_DONE);
    buf_append_slice(&r->frame, buf_slice(&r->outcome));
    frame_end(&r->frame, at);
    if (buf_ok(&r->frame) < 0)
        die("out of memory for a result, or one larger than a frame may be");
    if (!slot_move(slot, r->generation, SLOT_RUNNING, SLOT_FINISHED))
        await_signal();
    bool more = atomic_load_explicit(&c->at_hand, memory_order_relaxed) >= FRAME_HEADER_SIZE;
    outbox_put(&c->outbox, &r->frame, !more);
}

static void shrink(struct runner *r)
{
    if (r->job.cap > KEEP_BYTES)
        buf_deinit(&r->job);
    if (r->outcome.cap > KEEP_BYTES)
        buf_deinit(&r->outcome);
    if (r->frame.cap > KEEP_BYTES)
        buf_deinit(&r->frame);
    if (arena_used(r->arena) > KEEP_BYTES) {
        arena_free(r->arena);
        r->arena = arena_new();
        if (!r->arena)
            die("out of memory");
    }
}

static void *runner_main(void *arg)
{
    struct child *c = arg;
    struct runner r = {.child = c, .arena = arena_new()};
    if (!r.arena)
        die("out of memory");
    while (take_job(c, &r)) {
        run_job(c, &r);
        shrink(&r);
    }
    if (atomic_fetch_sub(&c->running, 1) == 1) {
        outbox_flush(&c->outbox);
        _exit(0);
    }
    buf_deinit(&r.job);
    buf_deinit(&r.outcome);
    buf_deinit(&r.frame);
    arena_free(r.arena);
    return NULL;
}

/* ---- start ---- */

static struct pool_page *map_page(int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || (size_t)st.st_size < sizeof(struct pool_page))
        return NULL;
    struct pool_page *page =
        mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return NULL;
    bool fits = page->magic == POOL_PAGE_MAGIC && page->version == POOL_PROTO_VERSION &&
                page->ring_size == POOL_RING_SIZE &&
                pool_page_size(page->n_slots) <= (size_t)st.st_size;
    return fits ? page : NULL;
}

static void say_hello(struct child *c)
{
    CLEANUP(buf_deinit) struct buf hello = BUF_INIT;
    size_t at = frame_begin(&hello, FRAME_HELLO, c->o->id);
    buf_append_u32le(&hello, (uint32_t)getpid());
    frame_end(&hello, at);
    if (buf_ok(&hello) < 0)
        die("out of memory");
    outbox_put(&c->outbox, &hello, true);
}

void child_main(const struct child_options *o)
{
    struct child c = {.o = o, .page = map_page(o->page_fd), .in = malloc(INPUT_SIZE)};
    if (!c.page || !c.in)
        die("no memory shared with the master");
    (void)close(o->page_fd);
    (void)pthread_mutex_init(&c.input, NULL);
    outbox_init(&c.outbox, o->fd, c.page);
    atomic_store(&c.running, o->threads);
    for (uint32_t i = 1; i < o->threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, runner_main, &c) != 0)
            die("cannot start the threads that were asked for: lower the concurrency");
        (void)pthread_detach(thread);
    }
    say_hello(&c);
    (void)runner_main(&c);
    for (;;) /* this thread has no more jobs, another one ends the process */
        (void)pause();
}
