/* SPDX-License-Identifier: Apache-2.0 */
/* The pool: which child gets a job, read-ahead and recall, start, stop.
 *
 * Jobs go to the child with the fewest; only when no thread is free are they sent ahead, to children whose recent jobs
 * were short (member.c, adapt). A slow job must not hold what was sent behind it: a tick, which runs only while
 * something unstarted is out, takes such jobs back as soon as another thread is free. The same tick finds in the
 * shared pages which jobs have started, so that a start costs the child no system call.
 *
 * Writes are gathered: what was submitted in one turn of the loop leaves before it sleeps again (a prepare handle,
 * and an idle handle that keeps it from sleeping). on_recalled and on_room are called there, too. */

#include "celeryc/pool/pool.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/pool/pool_priv.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#define TICK_MS        5
#define HELD_NS        (10 * NS_PER_MS) /* jobs behind one that runs this long may be taken back */
#define BACKOFF_MS     100
#define BACKOFF_MAX_MS 3000
#define START_FAILURES 6 /* children that die before they say hello, one after the other */

/* ---- the end of a turn ---- */

static void on_awake(uv_idle_t *h)
{
}

static void on_flush(uv_prepare_t *h)
{
    struct pool *p = h->data;
    /* Oldest first. A callback may add new ones: those have their turn next time. */
    size_t n = p->returned.len;
    for (size_t i = 0; i < n; i++)
        p->ev.on_recalled(p->returned.ids[i], p->arg);
    p->returned.len -= n;
    if (p->returned.len > 0)
        memmove(p->returned.ids, p->returned.ids + n, p->returned.len * sizeof *p->returned.ids);
    if (p->room_changed && p->ready && !p->stopping && p->ev.on_room) {
        p->room_changed = false;
        p->ev.on_room(p->arg);
    }
    for (size_t i = 0; i < p->n_members; i++)
        if (p->members[i] && p->members[i]->dirty)
            member_flush(p->members[i]);
    if (p->returned.len > 0)
        return;
    p->dirty = false;
    (void)uv_prepare_stop(&p->flush);
    (void)uv_idle_stop(&p->awake);
}

void pool_set_dirty(struct pool *p)
{
    if (p->dirty || p->freed)
        return;
    p->dirty = true;
    (void)uv_prepare_start(&p->flush, on_flush);
    (void)uv_idle_start(&p->awake, on_awake);
}

void pool_owe_recalled(struct pool *p, uint64_t job)
{
    if (p->returned.len == p->returned.cap) {
        size_t cap = p->returned.cap ? p->returned.cap * 2 : 64;
        uint64_t *grown = reallocarray(p->returned.ids, cap, sizeof *grown);
        if (!grown) { /* rather too early than never */
            p->ev.on_recalled(job, p->arg);
            return;
        }
        p->returned.ids = grown;
        p->returned.cap = cap;
    }
    p->returned.ids[p->returned.len++] = job;
    pool_set_dirty(p);
}

/* ---- the tick ---- */

/* How long every thread of m has been at its present job; 0 when one of them is not known to run. */
static int64_t stuck_ns(const struct member *m, int64_t now_ns)
{
    int64_t youngest_ns = 0;
    size_t running = 0;
    LIST_FOREACH(it, &m->jobs) {
        struct job *j = LIST_ENTRY(it, struct job, node);
        const struct pool_slot *slot = member_slot(m, j);
        if (atomic_load(&slot->state) != slot_word(j->generation, SLOT_RUNNING))
            continue;
        running++;
        youngest_ns = MAX(youngest_ns, atomic_load(&slot->start_ns));
    }
    return running >= m->pool->n_threads ? now_ns - youngest_ns : 0;
}

/* Jobs that wait behind long ones go to threads that are free. */
static void rebalance(struct pool *p)
{
    size_t n_free = pool_free_slots(p);
    int64_t now_ns = clock_mono_ns();
    for (size_t i = 0; i < p->n_members; i++) {
        struct member *m = p->members[i];
        if (!m || m->state != MEMBER_UP || m->n_jobs <= p->n_threads)
            continue;
        int64_t ns = stuck_ns(m, now_ns);
        if (ns < HELD_NS)
            continue;
        if (p->o.read_ahead == 0)
            m->ahead = 0;
        if (n_free > 0)
            n_free -= member_recall(m, n_free);
    }
}

static void on_tick(uv_timer_t *h)
{
    struct pool *p = h->data;
    bool watch = false;
    for (size_t i = 0; i < p->n_members; i++)
        if (p->members[i])
            member_report_started(p->members[i]);
    rebalance(p);
    for (size_t i = 0; i < p->n_members; i++)
        watch |= p->members[i] && p->members[i]->n_started < p->members[i]->n_jobs;
    if (!watch)
        (void)uv_timer_stop(h);
}

/* ---- start, respawn, stop ---- */

static void on_backoff(uv_timer_t *h)
{
    struct pool *p = h->data;
    pool_settle(p);
}

void pool_fail(struct pool *p, int exit_code, const char *reason)
{
    if (p->fatal || p->freed)
        return;
    p->fatal = true;
    if (p->ev.on_fatal)
        p->ev.on_fatal(reason, exit_code, p->arg);
}

static void settle_stop(struct pool *p)
{
    for (size_t i = 0; i < p->n_members; i++)
        if (p->members[i])
            return;
    if (p->zygote_alive) {
        link_shutdown(p);
        return;
    }
    void (*fn)(void *) = p->stop_fn;
    p->stop_fn = NULL;
    if (fn)
        fn(p->stop_arg);
}

static void settle_start(struct pool *p)
{
    if (p->forking || !p->table || p->fatal || !p->zygote_alive ||
        uv_is_active((uv_handle_t *)&p->backoff))
        return;
    size_t n_up = 0, missing = SIZE_MAX;
    for (size_t i = p->n_members; i-- > 0;) {
        if (!p->members[i])
            missing = i;
        else
            n_up += p->members[i]->state == MEMBER_UP;
    }
    if (n_up == p->n_members && !p->ready) {
        p->ready = true;
        p->ev.on_ready(p->table, p->arg);
    }
    p->room_changed = true;
    pool_set_dirty(p);
    if (missing == SIZE_MAX)
        return;
    if (p->start_failures >= START_FAILURES) {
        char text[256];
        (void)snprintf(text, sizeof text, "children of the pool die at their start (%s), given up",
                       p->last_failure);
        pool_fail(p, 70, text);
        return;
    }
    if (p->start_failures > 0 && !p->backed_off) {
        uint64_t wait_ms = BACKOFF_MS << p->start_failures;
        p->backed_off = true;
        (void)uv_timer_start(&p->backoff, on_backoff, MIN(wait_ms, BACKOFF_MAX_MS), 0);
        return;
    }
    p->backed_off = false;
    link_spawn(p, missing);
}

void pool_settle(struct pool *p)
{
    if (p->freed)
        return;
    if (!p->stopping) {
        settle_start(p);
        return;
    }
    for (size_t i = 0; i < p->n_members; i++) {
        struct member *m = p->members[i];
        if (m && m->state < MEMBER_FINISHING && m != p->forking)
            member_finish(m);
    }
    settle_stop(p);
}

/* ---- the interface ---- */

static void start_handles(struct pool *p)
{
    (void)uv_timer_init(p->loop, &p->tick);
    (void)uv_timer_init(p->loop, &p->backoff);
    (void)uv_prepare_init(p->loop, &p->flush);
    (void)uv_idle_init(p->loop, &p->awake);
    p->tick.data = p->backoff.data = p->flush.data = p->awake.data = p;
    p->n_handles = 4;
}

struct pool *pool_new(uv_loop_t *loop, const struct pool_options *o, const struct pool_events *ev,
                      void *arg)
{
    struct pool *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    *p = (struct pool){.loop = loop, .o = *o, .ev = *ev, .arg = arg, .link_fd = -1};
    size_t n = MAX(o->concurrency, 1);
    p->n_members = o->kind == POOL_PREFORK ? MIN(n, LIMIT_CHILDREN) : 1;
    p->n_threads = o->kind == POOL_THREADS ? (uint32_t)MIN(n, LIMIT_THREADS) : 1;
    p->o.read_ahead = MIN(o->read_ahead, READ_AHEAD_LIMIT);
    p->members = calloc(p->n_members, sizeof(struct member *));
    p->read_buf = malloc(READ_BYTES);
    p->arena = arena_new();
    if (!p->members || !p->read_buf || !p->arena) {
        free(p->members);
        free(p->read_buf);
        arena_free(p->arena);
        return mem_free(p);
    }
    start_handles(p);
    return p;
}

int pool_start(struct pool *p, struct err *e)
{
    return link_start(p, e);
}

size_t pool_slots(const struct pool *p)
{
    return p->n_members * p->n_threads;
}

size_t pool_room(const struct pool *p)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n_members && !p->stopping; i++)
        if (p->members[i])
            n += member_room(p->members[i]);
    return n;
}

size_t pool_free_slots(const struct pool *p)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n_members && !p->stopping; i++) {
        const struct member *m = p->members[i];
        if (m && m->n_jobs < p->n_threads)
            n += MIN(member_room(m), p->n_threads - m->n_jobs);
    }
    return n;
}

void pool_submit(struct pool *p, uint64_t job, struct slice queue, struct slice raw)
{
    struct member *best = NULL;
    for (size_t i = 0; i < p->n_members && !p->stopping; i++) {
        struct member *m = p->members[i];
        if (m && (!best || m->n_jobs < best->n_jobs) && member_room(m) > 0)
            best = m;
    }
    if (!best) {
        pool_owe_recalled(p, job);
        return;
    }
    member_submit(best, job, queue, raw);
    if (!uv_is_active((uv_handle_t *)&p->tick))
        (void)uv_timer_start(&p->tick, on_tick, TICK_MS, TICK_MS);
}

static struct job *find_job(const struct pool *p, uint64_t job, struct member **ret_m)
{
    for (size_t i = 0; i < p->n_members; i++) {
        struct job *j = p->members[i] ? member_find(p->members[i], job) : NULL;
        if (j) {
            *ret_m = p->members[i];
            return j;
        }
    }
    return NULL;
}

void pool_soft_stop(struct pool *p, uint64_t job)
{
    struct member *m;
    const struct job *j = find_job(p, job, &m);
    if (j)
        atomic_store(&member_slot(m, j)->stop, 1);
}

void pool_kill(struct pool *p, uint64_t job, int signum)
{
    struct member *m;
    struct job *j = find_job(p, job, &m);
    if (!j)
        return;
    if (member_take_back(m, j))
        return;
    bool deadly = signum == SIGKILL || signum == SIGTERM || signum == SIGINT || signum == SIGQUIT ||
                  signum == SIGHUP;
    struct pool_slot *slot = member_slot(m, j);
    if (deadly ? slot_move(slot, j->generation, SLOT_RUNNING, SLOT_KILLED)
               : atomic_load(&slot->state) == slot_word(j->generation, SLOT_RUNNING))
        link_signal(p, m, signum, true);
}

void pool_recall(struct pool *p)
{
    for (size_t i = 0; i < p->n_members; i++)
        if (p->members[i])
            (void)member_recall(p->members[i], SIZE_MAX);
}

void pool_stop(struct pool *p, void (*fn)(void *arg), void *arg)
{
    p->stop_fn = fn;
    p->stop_arg = arg;
    if (!p->stopping)
        pool_recall(p);
    p->stopping = true;
    (void)uv_timer_start(&p->backoff, on_backoff, 0, 0);
}

size_t pool_pids(const struct pool *p, int *pids, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < p->n_members && k < n; i++)
        if (p->members[i] && p->members[i]->pid > 0)
            pids[k++] = p->members[i]->pid;
    return k;
}

/* ---- the end ---- */

void pool_handle_closed(struct pool *p)
{
    if (--p->n_handles > 0 || !p->freed)
        return;
    task_registry_free(p->table);
    arena_free(p->arena);
    free(p->returned.ids);
    free(p->read_buf);
    free(p->members);
    free(p);
}

static void on_closed(uv_handle_t *h)
{
    pool_handle_closed(h->data);
}

struct pool *pool_free(struct pool *p)
{
    if (!p)
        return NULL;
    p->freed = true;
    for (size_t i = 0; i < p->n_members; i++)
        p->members[i] = member_free(p->members[i]);
    link_close(p);
    uv_close((uv_handle_t *)&p->tick, on_closed);
    uv_close((uv_handle_t *)&p->backoff, on_closed);
    uv_close((uv_handle_t *)&p->flush, on_closed);
    uv_close((uv_handle_t *)&p->awake, on_closed);
    return NULL;
}
