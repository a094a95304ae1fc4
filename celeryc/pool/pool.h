/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Zygote and children as the master sees them: P children x T threads, one mechanism for prefork, threads and solo.
 *
 * The zygote is exec'd (`celeryc zygote`, descriptor 3 = its socket), loads the plug-ins, sends the task table and
 * forks children on request; the master passes each child's end of a socket pair along. Frames are described in
 * docs/POOL_PROTOCOL.md. A child publishes in shared memory which jobs it runs, so a death costs exactly those.
 * What must never happen: an orphan that goes on running (PR_SET_PDEATHSIG, parent checked again), a job reported
 * twice, a job that has neither done, lost nor recalled. */

#include "celeryc/base/err.h"
#include "celeryc/task/registry.h"
#include "celeryc/task/run.h"

#include <uv.h>

enum pool_kind {
    POOL_PREFORK,
    POOL_THREADS,
    POOL_SOLO,
};

struct pool_options {
    enum pool_kind kind;
    size_t concurrency;             /* -c */
    const char *program;            /* path to exec for the zygote, normally /proc/self/exe */
    const char *const *zygote_argv; /* NULL-terminated, argv of the zygote without argv[0] */
    const struct task_settings *settings;
    size_t read_ahead; /* jobs that may be sent to a child beyond its threads (0: adaptive) */
    int64_t max_tasks_per_child; /* 0: no limit */
};

struct pool;

/* Called from the loop, never (but for on_fatal) from inside a call of pool_*. Every job that was submitted ends in
 * exactly one of on_done, on_lost and on_recalled; on_started comes before on_done and on_lost, once. */
struct pool_events {
    void (*on_ready)(const struct task_registry *table, void *arg); /* once, all children up */
    void (*on_started)(uint64_t job, int pid, const char *process, void *arg);
    void (*on_state)(uint64_t job, struct slice record, void *arg);
    void (*on_send)(uint64_t job, const struct outcome_message *m, void *arg);
    void (*on_apply)(uint64_t job, const struct outcome *o, void *arg); /* the lists of o, now */
    void (*on_done)(uint64_t job, const struct outcome *o, int pid, const char *process, void *arg);
    /* The child died while it ran this job. text: "signal 9 (SIGKILL)" or "exitcode 7"; oom: the cgroup says so. */
    void (*on_lost)(uint64_t job, int pid, const char *text, bool oom, void *arg);
    /* Sent ahead but never started (child died or was recalled): the master may submit it again. */
    void (*on_recalled)(uint64_t job, void *arg);
    void (*on_room)(void *arg); /* pool_room may have grown */
    void (*on_fatal)(const char *reason, int exit_code,
                     void *arg); /* zygote died or a plug-in does not load */
};

struct pool *pool_new(uv_loop_t *loop, const struct pool_options *o, const struct pool_events *ev,
                      void *arg);
int pool_start(struct pool *p, struct err *e) WARN_UNUSED;

size_t pool_slots(const struct pool *p); /* P x T */
size_t pool_room(const struct pool *p);  /* jobs that can be taken now (free slots + read-ahead) */
size_t pool_free_slots(const struct pool *p); /* threads without work */

/* Sends a job to a child with room; raw is copied. queue.p NULL: raw is the text of an errback (task_errback_write). Several submits of one loop turn leave in one write. Without room the
 * job comes back through on_recalled. */
void pool_submit(struct pool *p, uint64_t job, struct slice queue, struct slice raw);

void pool_soft_stop(struct pool *p, uint64_t job); /* celeryc_should_stop turns true */
/* Sends signum to the child that runs the job: on_lost follows for it, and for what else runs in that child's threads.
 * TERM, INT, QUIT and HUP, which children ignore, are carried out as KILL and reported as asked. A job that has not
 * started comes back through on_recalled instead; one that has just ended is reported as done, and nobody is killed. */
void pool_kill(struct pool *p, uint64_t job, int signum);
/* Everything not started comes back through on_recalled, before the loop sleeps. */
void pool_recall(struct pool *p);

/* Children finish what they run, then exit; fn when all are gone. */
void pool_stop(struct pool *p, void (*fn)(void *arg), void *arg);
/* Kills what is left; no more callbacks. Not from inside one, except on_fatal. The memory goes when the loop has run its
 * close callbacks. */
struct pool *pool_free(struct pool *p);

/* pids of the children, for the banner, stats and tests. Returns how many were written. */
size_t pool_pids(const struct pool *p, int *pids, size_t n);

/* First thing in the zygote's main, before plug-ins are loaded: binds the process to its master (PR_SET_PDEATHSIG), closes
 * what it inherited beyond 0..3, ignores the signals that a terminal or a service manager sends to the whole group.
 * Ends the process when descriptor 3 is not the master's socket. */
void pool_zygote_init(void);

/* main of the zygote: called by cli/cmd_zygote.c after the registry was filled. table_error (may be NULL) is reported
 * to the master instead of a table. Never returns. */
void pool_zygote_main(struct task_registry *registry, const char *table_error)
    __attribute__((noreturn));
