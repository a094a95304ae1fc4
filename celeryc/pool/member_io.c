/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes between the master and one child: frames in, frames out, and what a dead child left in the ring.
 *
 * Whole frames are handled where they were read, in one buffer that all members share; only a cut-off one is copied.
 * A child that breaks the protocol is killed: its memory is not to be trusted any more. */

#include "celeryc/base/clock.h"
#include "celeryc/base/log.h"
#include "celeryc/pool/pool_priv.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#define AHEAD_NS  (16 * NS_PER_MS) /* how much work may wait in a child */
#define SLOW_NS   (20 * NS_PER_MS) /* tasks this long get no read-ahead at all */
#define KEEP_SIZE (256u << 10)     /* larger buffers are given back */

/* Tiny tasks travel in bunches, so that no child waits for a round trip; long ones are sent one by one, so that none
 * waits behind another. */
static void adapt(struct member *m, int64_t runtime_ns)
{
    if (m->pool->o.read_ahead > 0) {
        m->ahead = m->pool->o.read_ahead;
        return;
    }
    runtime_ns = MAX(runtime_ns, 1000);
    m->mean_ns = runtime_ns > m->mean_ns ? runtime_ns : m->mean_ns - (m->mean_ns - runtime_ns) / 8;
    size_t want = m->mean_ns >= SLOW_NS ? 0 : (size_t)(AHEAD_NS / m->mean_ns);
    m->ahead = MIN(MIN(want, (size_t)READ_AHEAD_MAX), m->ahead * 2 + 1);
}

/* ---- frames ---- */

static int on_done(struct member *m, const struct frame *f, struct job *j, struct slice bytes)
{
    struct pool *p = m->pool;
    struct outcome o;
    struct err e = ERR_INIT;
    arena_reset(p->arena);
    int rc = outcome_decode(p->arena, bytes, &o, &e);
    if (rc < 0)
        return rc;
    member_tell_started(m, j);
    member_release(m, j);
    adapt(m, o.runtime_ns);
    p->ev.on_done(f->id, &o, m->pid, m->process, p->arg);
    return 0;
}

static void on_send(struct member *m, uint64_t id, struct cursor *c)
{
    struct outcome_message msg = {.queue = cursor_slice(c)};
    msg.priority = (int)cursor_u32(c);
    msg.raw = cursor_rest(c);
    if (!c->bad && m->pool->ev.on_send)
        m->pool->ev.on_send(id, &msg, m->pool->arg);
}

static int on_apply(struct member *m, uint64_t id, struct slice bytes)
{
    struct pool *p = m->pool;
    struct outcome o;
    struct err e = ERR_INIT;
    arena_reset(p->arena);
    int rc = outcome_decode(p->arena, bytes, &o, &e);
    if (rc == 0 && p->ev.on_apply)
        p->ev.on_apply(id, &o, p->arg);
    return rc;
}

static int on_job_frame(struct member *m, const struct frame *f)
{
    struct cursor c = cursor_init(f->body);
    uint32_t index = cursor_u32(&c);
    if (c.bad || index >= m->n_slots)
        return -EPROTO;
    struct job *j = &m->slots[index];
    if (!list_linked(&j->node) || j->id != f->id)
        return -EPROTO;
    if (f->type == FRAME_DONE)
        return on_done(m, f, j, cursor_rest(&c));
    member_tell_started(m, j);
    if (f->type == FRAME_STATE && m->pool->ev.on_state)
        m->pool->ev.on_state(f->id, cursor_rest(&c), m->pool->arg);
    else if (f->type == FRAME_SEND)
        on_send(m, f->id, &c);
    else if (f->type == FRAME_APPLY)
        return on_apply(m, f->id, cursor_rest(&c));
    return 0;
}

static int on_frame(struct member *m, const struct frame *f)
{
    switch (f->type) {
    case FRAME_HELLO:
        if (m->state == MEMBER_STARTING) {
            member_set_state(m, MEMBER_UP);
            m->pool->start_failures = 0;
            pool_settle(m->pool);
        }
        return 0;
    case FRAME_DONE:
    case FRAME_STATE:
    case FRAME_SEND:
    case FRAME_APPLY:
        return on_job_frame(m, f);
    default:
        return -EPROTO;
    }
}

/* Handles every whole frame; ret_used is what they took. */
static int take_frames(struct member *m, struct slice bytes, size_t *ret_used)
{
    struct frame f;
    size_t size, at = 0;
    int rc;
    while ((rc = frame_parse((struct slice){bytes.p + at, bytes.len - at}, &f, &size)) == 0) {
        rc = on_frame(m, &f);
        at += size;
        if (rc < 0)
            break;
    }
    *ret_used = at;
    return rc < 0 ? rc : 0;
}

/* Frames are handled where they were read; only a cut-off one is copied. */
static int take_bytes(struct member *m, struct slice bytes)
{
    size_t used;
    int rc;
    if (m->in.len == 0) {
        rc = take_frames(m, bytes, &used);
        buf_append(&m->in, bytes.p + used, bytes.len - used);
    } else {
        buf_append_slice(&m->in, bytes);
        if (buf_ok(&m->in) < 0)
            return -ENOMEM;
        rc = take_frames(m, buf_slice(&m->in), &used);
        buf_consume(&m->in, used);
        if (m->in.len == 0 && m->in.cap > KEEP_SIZE)
            buf_deinit(&m->in);
    }
    return rc < 0 ? rc : buf_ok(&m->in);
}

/* The child is given up: whatever it still does is of no use. */
static void condemn(struct member *m)
{
    (void)uv_poll_stop(&m->poll);
    if (m->state != MEMBER_DYING)
        member_set_state(m, MEMBER_DYING);
    link_signal(m->pool, m, SIGKILL, false);
}

/* 0: nothing more now. 1: there may be more. -Exxx: end of the stream, or a broken one. */
static int read_once(struct member *m)
{
    if (m->broken)
        return -EPROTO;
    ssize_t n = read(m->fd, m->pool->read_buf, READ_BYTES);
    if (n < 0 && errno == EINTR)
        return 1;
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n <= 0)
        return -EPIPE;
    m->received += (uint64_t)n;
    int rc = take_bytes(m, (struct slice){m->pool->read_buf, (size_t)n});
    if (rc < 0) {
        m->broken = true;
        log_error("Process '%s' pid:%d broke the protocol of the pool and is killed", m->process,
                  m->pid);
        return rc;
    }
    return 1;
}

void member_on_poll(uv_poll_t *h, int status, int events)
{
    struct member *m = h->data;
    if (events & UV_WRITABLE) {
        m->polling_write = false;
        (void)uv_poll_start(&m->poll, UV_READABLE, member_on_poll);
        member_flush(m);
    }
    if (status == 0 && !(events & UV_READABLE))
        return;
    int rc = read_once(m);
    if (rc < 0)
        condemn(m);
    else if (m->state == MEMBER_UP && m->pool->o.max_tasks_per_child > 0 && m->n_jobs == 0 &&
             m->n_submitted >= m->pool->o.max_tasks_per_child)
        member_finish(m);
}

void member_flush(struct member *m)
{
    m->dirty = false;
    while (m->out_at < m->out.len && m->state >= MEMBER_STARTING && m->state != MEMBER_DYING) {
        ssize_t n = send(m->fd, m->out.data + m->out_at, m->out.len - m->out_at, MSG_NOSIGNAL);
        if (n >= 0) {
            m->out_at += (size_t)n;
        } else if (errno == EAGAIN) {
            if (!m->polling_write)
                (void)uv_poll_start(&m->poll, UV_READABLE | UV_WRITABLE, member_on_poll);
            m->polling_write = true;
            return;
        } else if (errno != EINTR) {
            return; /* it is dying: the reading side finds out */
        }
    }
    buf_reset(&m->out);
    m->out_at = 0;
    if (m->out.cap > KEEP_SIZE)
        buf_deinit(&m->out);
}

/* ---- the last words ---- */

/* What the child had finished and not written: bytes received..end of its stream. */
static void salvage(struct member *m)
{
    uint64_t end = atomic_load(&m->page->end);
    if (end <= m->received || end - m->received > POOL_RING_SIZE)
        return;
    CLEANUP(buf_deinit) struct buf rest = BUF_INIT;
    size_t len = (size_t)(end - m->received), at = m->received % POOL_RING_SIZE;
    size_t first = MIN(len, POOL_RING_SIZE - at);
    buf_append(&rest, m->page->ring + at, first);
    buf_append(&rest, m->page->ring, len - first);
    m->received = end;
    if (buf_ok(&rest) == 0)
        (void)take_bytes(m, buf_slice(&rest));
}

void member_read_last(struct member *m)
{
    while (read_once(m) == 1)
        ;
    salvage(m);
}
