/* SPDX-License-Identifier: Apache-2.0 */
/* Which calls need the heartbeat, and over which connection it goes:
 *
 *   .record, .external, SQL files   no transaction is open while they run: a connection of the thread's own, made when the
 *                                   last renewal is a third of the lease old, renews and listens
 *   .row on PostgreSQL              the chunk's transaction holds the batch's row, so nobody can take it over and nobody can
 *                                   renew it; but the server ends a transaction that is idle for a third of the lease.
 *                                   The thread listens over that very connection, which keeps it awake
 *   .row on SQLite                  the transaction shuts everybody else out: nothing to renew, nothing to hear
 *
 * A worker that is stopped stops its thread with it, and so loses the batch as it should; when it goes on, the token
 * says whether the batch is still its own. What must never happen: the thread waits for the batch's row, or uses the
 * worker's connection while that does. */

#include "celeryc/migrate/beat.h"

#include "celeryc/base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#define TURN_MAX_MS 1000
#define TURN_MIN_MS 20
#define TURNS       12 /* of a lease */

struct beat {
    /* Set before the thread starts. */
    struct celeryc_call *call;
    const char *url, *plan;
    int64_t number, token, lease_ms;
    bool inside; /* a .row function: only over the connection that is lent */
    bool running;
    pthread_t thread;

    /* Guards what follows; never held during an exchange with the database. */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool ending, lost, fresh, known;
    struct db_orders orders; /* known: heard at least once; fresh: nobody has asked for it yet */
    int64_t renewed_ns;
    struct err trouble; /* of the last beat, when it failed */

    /* Held by whoever uses the lent connection. `lock` may be taken with it, never the reverse. */
    pthread_mutex_t lending;
    struct db *lent;

    struct db *db; /* the thread's own */
};

static struct db_beat request(const struct beat *b)
{
    return (struct db_beat){
        .plan = b->plan, .batch = b->number, .token = b->token, .lease_ms = b->lease_ms};
}

/* ---- the thread ---- */

static void told(struct beat *b, int r, const struct db_orders *o, struct err *e,
                 int64_t renewed_ns)
{
    (void)pthread_mutex_lock(&b->lock);
    if (r == 0) {
        b->orders = *o;
        b->fresh = b->known = true;
        b->trouble = ERR_INIT;
    }
    if (renewed_ns)
        b->renewed_ns = renewed_ns;
    b->lost = b->lost || r == DB_E_FENCED;
    if (r && r != DB_E_FENCED)
        (void)err_set(&b->trouble, r, "%s", err_text(e, r));
    (void)pthread_mutex_unlock(&b->lock);
}

static int64_t age_ms(struct beat *b)
{
    (void)pthread_mutex_lock(&b->lock);
    int64_t ns = clock_mono_ns() - b->renewed_ns;

    (void)pthread_mutex_unlock(&b->lock);
    return ns / NS_PER_MS;
}

static void beat_beside(struct beat *b)
{
    const struct db_beat q = request(b);
    int64_t began_ns = clock_mono_ns();
    struct err e = ERR_INIT;
    struct db_orders o;
    bool renewed = false, due = age_ms(b) >= b->lease_ms / 3;
    int r = 0;

    if (!b->db && !due)
        return;
    if (!b->db)
        r = db_open(b->url, &b->db, &e);
    if (!r) {
        db_set_patience(b->db, b->lease_ms / 3);
        r = db_batch_watch(b->db, &q, due, &o, &renewed, &e);
    }
    told(b, r, &o, &e, renewed ? began_ns : 0);
}

static void beat_inside(struct beat *b)
{
    const struct db_beat q = request(b);
    struct err e = ERR_INIT;
    struct db_orders o;

    if (pthread_mutex_trylock(&b->lending))
        return;
    if (b->lent)
        told(b, db_batch_look(b->lent, &q, &o, &e), &o, &e, 0);
    (void)pthread_mutex_unlock(&b->lending);
}

/* Until the next turn. false: the batch has ended. */
static bool sleep_a_turn(struct beat *b)
{
    int64_t turn_ms = MIN(MAX(b->lease_ms / TURNS, TURN_MIN_MS), TURN_MAX_MS);
    int64_t at_ns = clock_mono_ns() + turn_ms * NS_PER_MS;
    const struct timespec t = {.tv_sec = at_ns / NS_PER_S, .tv_nsec = at_ns % NS_PER_S};
    int r = 0;

    (void)pthread_mutex_lock(&b->lock);
    while (!b->ending && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&b->wake, &b->lock, &t);
    bool goes_on = !b->ending && !b->lost;

    (void)pthread_mutex_unlock(&b->lock);
    return goes_on;
}

static void *thread_main(void *arg)
{
    struct beat *b = arg;

    while (sleep_a_turn(b)) {
        if (b->inside)
            beat_inside(b);
        else
            beat_beside(b);
    }
    b->db = db_close(b->db);
    return NULL;
}

/* ---- its life ---- */

/* Signals are the worker's matter. */
static bool start(struct beat *b)
{
    sigset_t all, before;

    (void)sigfillset(&all);
    if (pthread_sigmask(SIG_SETMASK, &all, &before))
        return false;
    int r = pthread_create(&b->thread, NULL, thread_main, b);

    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r == 0;
}

struct beat *beat_new(struct job *j)
{
    struct beat *b = calloc(1, sizeof(*b));
    pthread_condattr_t clock;

    if (!b)
        return NULL;
    *b = (struct beat){.call = j->call,
                       .url = connection_url(j->rt, j->alias),
                       .plan = j->plan,
                       .number = j->number,
                       .token = j->claim.token,
                       .lease_ms = j->rt->options.lease_ms,
                       .inside = j->m->row != NULL,
                       .renewed_ns = clock_mono_ns()};
    (void)pthread_mutex_init(&b->lock, NULL);
    (void)pthread_mutex_init(&b->lending, NULL);
    (void)pthread_condattr_init(&clock);
    (void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&b->wake, &clock);
    (void)pthread_condattr_destroy(&clock);
    if (b->url && !(b->inside && db_is_sqlite(j->conn->db)))
        b->running = start(b);
    return b;
}

struct beat *beat_free(struct beat *b)
{
    if (!b)
        return NULL;
    (void)pthread_mutex_lock(&b->lock);
    b->ending = true;
    (void)pthread_cond_signal(&b->wake);
    (void)pthread_mutex_unlock(&b->lock);
    if (b->running)
        (void)pthread_join(b->thread, NULL);
    if (b->trouble.text[0])
        celeryc_log(b->call, CELERYC_WARNING,
                    "batch %lld of plan %s: its lease was not renewed during a long call: %s",
                    (long long)b->number, b->plan, b->trouble.text);
    (void)pthread_cond_destroy(&b->wake);
    (void)pthread_mutex_destroy(&b->lock);
    (void)pthread_mutex_destroy(&b->lending);
    free(b);
    return NULL;
}

/* ---- what the worker asks ---- */

void beat_renewed(struct beat *b)
{
    if (!b)
        return;
    (void)pthread_mutex_lock(&b->lock);
    b->renewed_ns = clock_mono_ns();
    b->fresh = b->known = false;
    (void)pthread_mutex_unlock(&b->lock);
}

bool beat_heard(struct beat *b, struct db_orders *ret_o)
{
    if (!b)
        return false;
    (void)pthread_mutex_lock(&b->lock);
    bool fresh = b->fresh;

    if (fresh)
        *ret_o = b->orders;
    b->fresh = false;
    (void)pthread_mutex_unlock(&b->lock);
    return fresh;
}

bool beat_lost(struct beat *b)
{
    if (!b)
        return false;
    (void)pthread_mutex_lock(&b->lock);
    bool lost = b->lost;

    (void)pthread_mutex_unlock(&b->lock);
    return lost;
}

static const char *order_in(const struct db_orders *o)
{
    if (o->state != DB_PLAN_RUNNING && o->state != DB_PLAN_DRAINING)
        return db_plan_state_name(o->state);
    if (o->closed)
        return "window";
    return o->stopped ? "stopped" : NULL;
}

const char *beat_stop_wanted(struct beat *b)
{
    const char *why = NULL;

    if (!b)
        return NULL;
    (void)pthread_mutex_lock(&b->lock);
    if (b->lost)
        why = "lost";
    else if (b->known)
        why = order_in(&b->orders);
    (void)pthread_mutex_unlock(&b->lock);
    return why || !celeryc_should_stop(b->call) ? why : "worker";
}

/* ---- inside of a transaction ---- */

void beat_lend(struct beat *b, struct db *db)
{
    if (!b || !b->running)
        return;
    (void)pthread_mutex_lock(&b->lending);
    b->lent = db;
    (void)pthread_mutex_unlock(&b->lending);
}

void beat_take_back(struct beat *b)
{
    if (!b || !b->running)
        return;
    (void)pthread_mutex_lock(&b->lending);
    b->lent = NULL;
    (void)pthread_mutex_unlock(&b->lending);
}
