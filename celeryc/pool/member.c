/* SPDX-License-Identifier: Apache-2.0 */
/* One child as the master sees it: its socket, its page, the jobs it has.
 *
 *     FORKING -> STARTING -> UP -> FINISHING -> (exited)      DYING is reached from any of them
 *
 * A job leaves the child in exactly one way: a DONE frame, recalled before its start, or lost with the child. Frames
 * that reach us after the child's death count like any other (member_io.c). */

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"
#include "celeryc/pool/pool_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

void member_set_state(struct member *m, enum member_state state)
{
    ASSERT(state > m->state);
    m->state = state;
}

struct pool_slot *member_slot(const struct member *m, const struct job *j)
{
    return &m->page->slots[j - m->slots];
}

/* ---- making and freeing ---- */

static int make_page(struct member *m, int *ret_fd, struct err *e)
{
    size_t size = pool_page_size(m->n_slots);
    int fd = memfd_create("celeryc-pool", MFD_CLOEXEC);
    if (fd < 0)
        return err_set(e, -errno, "cannot share memory with a child: %s", err_errno(errno));
    void *page = MAP_FAILED;
    if (ftruncate(fd, (off_t)size) == 0)
        page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) {
        int rc = -errno;
        (void)close(fd);
        return err_set(e, rc, "cannot share memory with a child: %s", err_errno(rc));
    }
    m->page = page;
    m->page_size = size;
    m->page->magic = POOL_PAGE_MAGIC;
    m->page->version = POOL_PROTO_VERSION;
    m->page->n_slots = (uint32_t)m->n_slots;
    m->page->ring_size = POOL_RING_SIZE;
    *ret_fd = fd;
    return 0;
}

static int make_slots(struct member *m)
{
    m->slots = calloc(m->n_slots, sizeof *m->slots);
    m->free_slots = calloc(m->n_slots, sizeof *m->free_slots);
    if (!m->slots || !m->free_slots)
        return -ENOMEM;
    for (size_t i = 0; i < m->n_slots; i++)
        m->free_slots[i] = (uint32_t)(m->n_slots - 1 - i); /* low ones are used first */
    m->n_free = m->n_slots;
    return 0;
}

static void dispose(struct member *m)
{
    if (m->fd >= 0)
        (void)close(m->fd);
    if (m->page)
        (void)munmap(m->page, m->page_size);
    free(m->slots);
    free(m->free_slots);
    buf_deinit(&m->out);
    buf_deinit(&m->in);
    free(m);
}

static void on_closed(uv_handle_t *h)
{
    struct member *m = h->data;
    struct pool *p = m->pool;
    dispose(m);
    pool_handle_closed(p);
}

struct member *member_free(struct member *m)
{
    if (!m)
        return NULL;
    m->pool->members[m->place] = NULL;
    uv_close((uv_handle_t *)&m->poll, on_closed);
    return NULL;
}

int member_new(struct pool *p, size_t place, struct member **ret_m, int ret_fds[2], struct err *e)
{
    struct member *m = calloc(1, sizeof *m);
    int pair[2] = {-1, -1}, page_fd = -1, rc = -ENOMEM;
    if (!m)
        return rc;
    *m = (struct member){.pool = p,
                         .id = ++p->next_id,
                         .place = place,
                         .fd = -1,
                         .n_slots = p->n_threads + MAX(p->o.read_ahead, (size_t)READ_AHEAD_MAX)};
    list_init(&m->jobs);
    rc = make_slots(m);
    if (rc == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        rc = err_set(e, -errno, "cannot make a socket pair: %s", err_errno(errno));
    if (rc == 0)
        rc = make_page(m, &page_fd, e);
    m->fd = pair[0];
    if (rc == 0 && fcntl(m->fd, F_SETFL, O_NONBLOCK) < 0)
        rc = err_set(e, -errno, "cannot set up a socket: %s", err_errno(errno));
    if (rc == 0)
        rc = uv_poll_init(p->loop, &m->poll, m->fd);
    if (rc < 0) {
        if (pair[1] >= 0)
            (void)close(pair[1]);
        if (page_fd >= 0)
            (void)close(page_fd);
        dispose(m);
        return rc;
    }
    m->poll.data = m;
    p->n_handles++;
    p->members[place] = m;
    if (p->o.kind == POOL_PREFORK)
        (void)snprintf(m->process, sizeof m->process, "ForkPoolWorker-%u", ++p->next_number);
    else
        (void)snprintf(m->process, sizeof m->process, "MainProcess");
    ret_fds[0] = pair[1];
    ret_fds[1] = page_fd;
    *ret_m = m;
    return 0;
}

void member_spawned(struct member *m, int pid)
{
    m->pid = pid;
    member_set_state(m, MEMBER_STARTING);
    (void)uv_poll_start(&m->poll, UV_READABLE, member_on_poll);
}

/* ---- jobs ---- */

size_t member_room(const struct member *m)
{
    if (m->state != MEMBER_UP)
        return 0;
    size_t may = MIN(m->pool->n_threads + m->ahead, m->n_slots);
    size_t room = may > m->n_jobs ? may - m->n_jobs : 0;
    int64_t limit = m->pool->o.max_tasks_per_child;
    if (limit > 0)
        room = MIN(room, (size_t)MAX(limit - m->n_submitted, 0));
    return MIN(room, m->n_free);
}

struct job *member_find(struct member *m, uint64_t id)
{
    LIST_FOREACH(it, &m->jobs) {
        struct job *j = LIST_ENTRY(it, struct job, node);
        if (j->id == id)
            return j;
    }
    return NULL;
}

void member_release(struct member *m, struct job *j)
{
    list_remove(&j->node);
    m->free_slots[m->n_free++] = (uint32_t)(j - m->slots);
    m->n_jobs--;
    m->n_started -= j->started;
    j->started = false;
    m->pool->room_changed = true;
    pool_set_dirty(m->pool);
}

void member_submit(struct member *m, uint64_t id, struct slice queue, struct slice raw)
{
    ASSERT(m->n_free > 0);
    uint32_t index = m->free_slots[m->n_free - 1];
    struct job *j = &m->slots[index];
    struct pool_slot *slot = &m->page->slots[index];
    size_t len = m->out.len;
    size_t at = frame_begin(&m->out, FRAME_JOB, id);
    buf_append_u32le(&m->out, index);
    buf_append_u64le(&m->out, j->generation + 1);
    cursor_put_slice(&m->out, queue);
    buf_append_slice(&m->out, raw);
    frame_end(&m->out, at);
    if (buf_ok(&m->out) < 0) {
        m->out.len = len;
        m->out.failed = false;
        pool_owe_recalled(m->pool, id);
        return;
    }
    m->n_free--;
    j->id = id;
    j->generation++;
    atomic_store(&slot->stop, 0);
    atomic_store(&slot->state, slot_word(j->generation, SLOT_SENT));
    list_push_back(&m->jobs, &j->node);
    m->n_jobs++;
    m->n_submitted++;
    m->dirty = true;
    pool_set_dirty(m->pool);
}

void member_finish(struct member *m)
{
    size_t at = frame_begin(&m->out, FRAME_FINISH, m->id);
    frame_end(&m->out, at);
    if (buf_ok(&m->out) < 0)
        link_signal(m->pool, m, SIGKILL, false);
    member_set_state(m, MEMBER_FINISHING);
    m->told_to_finish = true;
    m->dirty = true;
    pool_set_dirty(m->pool);
}

bool member_take_back(struct member *m, struct job *j)
{
    if (!slot_move(member_slot(m, j), j->generation, SLOT_SENT, SLOT_RECALLED))
        return false;
    pool_owe_recalled(m->pool, j->id);
    m->n_submitted--;
    member_release(m, j);
    return true;
}

size_t member_recall(struct member *m, size_t max)
{
    size_t n = 0;
    LIST_FOREACH(it, &m->jobs) {
        struct job *j = LIST_ENTRY(it, struct job, node);
        if (n == max)
            break;
        n += member_take_back(m, j);
    }
    return n;
}

void member_tell_started(struct member *m, struct job *j)
{
    if (j->started)
        return;
    j->started = true;
    m->n_started++;
    if (m->pool->ev.on_started)
        m->pool->ev.on_started(j->id, m->pid, m->process, m->pool->arg);
}

void member_report_started(struct member *m)
{
    uint64_t ids[16];
    size_t n = 0;
    if (m->n_started == m->n_jobs)
        return;
    LIST_FOREACH(it, &m->jobs) {
        struct job *j = LIST_ENTRY(it, struct job, node);
        uint64_t state = atomic_load(&member_slot(m, j)->state);
        if (!j->started && state == slot_word(j->generation, SLOT_RUNNING) && n < ARRAY_SIZE(ids))
            ids[n++] = j->id;
    }
    /* A callback may change the list. The rest of more than 16 waits for the next tick. */
    for (size_t i = 0; i < n; i++) {
        struct job *j = member_find(m, ids[i]);
        if (j)
            member_tell_started(m, j);
    }
}

/* ---- the end ---- */

static void describe(int status, char *dst, size_t size)
{
    const char *name = WIFSIGNALED(status) ? sigabbrev_np(WTERMSIG(status)) : NULL;
    if (name)
        (void)snprintf(dst, size, "signal %d (SIG%s)", WTERMSIG(status), name);
    else if (WIFSIGNALED(status))
        (void)snprintf(dst, size, "signal %d", WTERMSIG(status));
    else
        (void)snprintf(dst, size, "exitcode %d", WEXITSTATUS(status));
}

static void report_lost(struct member *m, const char *text, bool oom)
{
    struct pool *p = m->pool;
    while (!list_empty(&m->jobs)) {
        struct job *j = LIST_ENTRY(m->jobs.next, struct job, node);
        uint64_t id = j->id;
        member_tell_started(m, j);
        if (list_linked(&j->node) && j->id == id)
            member_release(m, j);
        p->ev.on_lost(id, m->pid, text, oom, p->arg);
    }
}

void member_exited(struct member *m, int status, bool oom)
{
    struct pool *p = m->pool;
    bool early = m->state <= MEMBER_STARTING;
    bool wanted = m->told_to_finish && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    char text[64];
    describe(status, text, sizeof text);
    (void)uv_poll_stop(&m->poll);
    member_read_last(m);
    if (m->state != MEMBER_DYING)
        member_set_state(m, MEMBER_DYING);
    (void)member_recall(m, SIZE_MAX);
    if (!wanted && !p->freed)
        log_error("Process '%s' pid:%d exited with '%s'", m->process, m->pid, text);
    report_lost(m, text, oom);
    if (early) {
        p->start_failures++;
        (void)snprintf(p->last_failure, sizeof p->last_failure, "%s", text);
    }
    member_free(m);
    pool_settle(p);
}
