/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The master's side of the pool, shared by pool.c (jobs), member.c and member_io.c (one child) and link.c (the zygote). */

#include "celeryc/base/list.h"
#include "celeryc/pool/pool.h"
#include "celeryc/pool/proto.h"

#define READ_AHEAD_MAX   64   /* adaptive */
#define READ_AHEAD_LIMIT 4096 /* when the options ask for it */
#define READ_BYTES       (128u << 10)

enum member_state {
    MEMBER_FORKING,   /* the zygote was asked */
    MEMBER_STARTING,  /* it has a pid, but has not said hello */
    MEMBER_UP,        /* takes jobs */
    MEMBER_FINISHING, /* was told to finish what it runs */
    MEMBER_DYING, /* its socket is closed or it broke the rules; the zygote will say how it ended */
};

struct job {
    struct list node; /* in member.jobs while used */
    uint64_t id, generation;
    bool started; /* on_started was called */
};

/* One child, from the order to fork until the zygote reports its end. */
struct member {
    struct pool *pool;
    uint64_t id;
    size_t place; /* in pool.members */
    enum member_state state;
    int pid;
    char process[32];
    int fd;
    uv_poll_t poll;
    bool polling_write;

    struct pool_page *page;
    size_t page_size;
    struct job *slots; /* one for each slot of the page */
    uint32_t *free_slots;
    size_t n_slots, n_free;
    struct list jobs; /* in the order in which they were sent */
    size_t n_jobs, n_started;
    int64_t n_submitted;
    size_t ahead;    /* jobs beyond the threads that may be sent now */
    int64_t mean_ns; /* of a job; rises at once, falls slowly */

    struct buf out;
    size_t out_at;
    bool dirty;
    struct buf in; /* a part of a frame */
    bool told_to_finish;
    bool broken;       /* what it sends makes no sense */
    uint64_t received; /* stream position */
};

struct pool {
    uv_loop_t *loop;
    struct pool_options o;
    struct pool_events ev;
    void *arg;

    size_t n_members; /* wanted */
    uint32_t n_threads;
    struct member **members; /* NULL: not forked yet, or gone */
    uint64_t next_id;
    unsigned next_number; /* of ForkPoolWorker-N */

    uv_process_t process; /* the zygote */
    uv_poll_t link;
    int link_fd;
    bool zygote_alive;
    struct buf link_in;
    struct task_registry *table;
    struct member *forking; /* one order at a time */
    unsigned start_failures;
    bool backed_off; /* the wait after the last of them is over */
    char last_failure[64];

    uv_timer_t tick, backoff;
    uv_prepare_t flush;
    uv_idle_t awake; /* keeps the loop from sleeping while something is dirty */
    bool dirty, room_changed;
    size_t n_handles;

    struct {
        uint64_t *ids;
        size_t len, cap;
    } returned; /* on_recalled is owed for these, at the end of the turn */

    bool ready, fatal, stopping, freed;
    void (*stop_fn)(void *arg);
    void *stop_arg;
    char *read_buf;
    struct arena *arena;
};

/* ---- pool.c ---- */

void pool_set_dirty(struct pool *p);
void pool_owe_recalled(struct pool *p, uint64_t job);
void pool_fail(struct pool *p, int exit_code, const char *reason);
/* Something ended: fork what is missing, or see whether stopping is complete. */
void pool_settle(struct pool *p);
void pool_handle_closed(struct pool *p);

/* ---- member.c ---- */

int member_new(struct pool *p, size_t place, struct member **ret_m, int ret_fds[2],
               struct err *e) WARN_UNUSED;
struct member *member_free(struct member *m); /* frees in the poll handle's close callback */
void member_set_state(struct member *m, enum member_state state);
void member_spawned(struct member *m, int pid);
size_t member_room(const struct member *m);
void member_submit(struct member *m, uint64_t id, struct slice queue, struct slice raw);
void member_finish(struct member *m);
/* The zygote says that the child is gone: what it left is read, its jobs are reported, m is freed. */
void member_exited(struct member *m, int status, bool oom);
struct job *member_find(struct member *m, uint64_t id);
struct pool_slot *member_slot(const struct member *m, const struct job *j);
/* Takes up to max jobs that it has not started back; their ids go to pool.returned. Returns how many. */
size_t member_recall(struct member *m, size_t max);
bool member_take_back(struct member *m, struct job *j); /* one of them; false when it has started */
void member_report_started(struct member *m);
void member_tell_started(struct member *m, struct job *j); /* once for each job */
void member_release(struct member *m, struct job *j);      /* the job is no longer this child's */

/* ---- member_io.c ---- */

void member_on_poll(uv_poll_t *h, int status, int events);
void member_flush(struct member *m);
/* All that is left in the socket of a dead child, and after it in its ring. */
void member_read_last(struct member *m);

/* ---- link.c ---- */

int link_start(struct pool *p, struct err *e) WARN_UNUSED;
void link_spawn(struct pool *p, size_t place);
/* asked: somebody wants the job dead, so the death is reported with this signal. Else it is only made sure that a child
 * that is ending anyway does end; what it died of stays as it was. */
void link_signal(struct pool *p, const struct member *m, int signum, bool asked);
void link_shutdown(struct pool *p); /* the zygote ends by itself */
void link_close(struct pool *p);
