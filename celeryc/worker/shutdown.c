/* SPDX-License-Identifier: Apache-2.0 */
/* Signals and the way out.
 *
 * TERM (and the first INT): warm. Claiming stops, what has not started goes back to the head of its queue, what runs may
 * end; after --drain-timeout it is asked to stop, and SOFT_GRACE_MS later it is killed. QUIT, the second INT, and TERM
 * with REMAP_SIGTERM=SIGQUIT: cold, after worker_soft_shutdown_timeout. A killed late-ack task goes back to the head of
 * its queue, marked redelivered; an early-ack one fails with WorkerLostError. One more INT or QUIT: at once; the leases
 * bring back what was held.
 *
 * The process leaves when Redis has acknowledged every end, or LEAVE_MS after the last task. */

#include "celeryc/worker/worker_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/log.h"
#include "celeryc/worker/chord.h"
#include "celeryc/worker/errback.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#define SOFT_GRACE_MS    5000 /* between "please stop" and the kill */
#define STOP_CLAIMING_MS 5000
#define GATHER_MS        1000 /* how long unstarted jobs are waited for before what is here goes back */
#define POOL_STOP_MS     5000  /* children that do not leave by then are killed */
#define ENDS_MS          3000  /* how long the pool stays for what the last ends may call */
#define LEAVE_MS         15000 /* for Redis to acknowledge the last ends */
#define DEREGISTER_MS    2000

static void say(const char *text)
{
    char line[256];
    int n = snprintf(line, sizeof(line), "\n%s\n", text);
    ssize_t written = write(STDOUT_FILENO, line, (size_t)n);
    (void)written;
}

static const char *phase_name(enum phase p)
{
    static const char *const names[] = {"starting",  "running", "draining", "soft stop",
                                        "cold stop", "leaving", "gone"};
    return names[p];
}

static void set_phase(struct worker *w, enum phase p)
{
    ASSERT(p > w->phase);
    log_debug("worker: %s -> %s", phase_name(w->phase), phase_name(p));
    w->phase = p;
}

/* ---- steps ---- */

/* Newest first: each goes to the head, so the oldest is next to be consumed. */
static void return_list(struct worker *w, enum delivery_state s)
{
    while (!list_empty(&w->lists[s]))
        finish_return(LIST_ENTRY(w->lists[s].prev, struct delivery, node), true, false);
}

static void return_unstarted(struct worker *w)
{
    size_t n = w->n[DELIVERY_RESERVED] + w->n[DELIVERY_HELD];
    if (n == 0)
        return;
    log_info("Restoring %zu unacknowledged message(s)", n);
    return_list(w, DELIVERY_HELD);
    return_list(w, DELIVERY_RESERVED);
}

static void on_gathered(uv_timer_t *t)
{
    return_unstarted(t->data);
    shutdown_step(t->data);
}

static void left(void *arg)
{
    struct worker *w = arg;
    if (w->phase == PHASE_GONE || --w->n_leaving > 0)
        return;
    set_phase(w, PHASE_GONE);
    uv_stop(&w->loop);
}

static void leave(struct worker *w)
{
    if (w->leaving)
        return;
    w->leaving = true;
    w->n_leaving = 2;
    control_leave(w->control, DEREGISTER_MS, left, w);
    transport_leave(w->transport, DEREGISTER_MS, left, w);
}

static void on_leave_deadline(uv_timer_t *t)
{
    struct worker *w = t->data;
    if (w->n[DELIVERY_LEAVING])
        log_error(
            "worker: Redis has not acknowledged the end of %zu message(s) within %d s: late-ack "
            "ones run again when their lease ends, others are reported lost",
            w->n[DELIVERY_LEAVING], LEAVE_MS / 1000);
    leave(w);
}

static void pool_left(void *arg)
{
    struct worker *w = arg;
    if (w->pool_gone)
        return;
    w->pool_gone = true;
    (void)uv_timer_stop(&w->gather_timer);
    shutdown_step(w);
}

static void on_pool_deadline(uv_timer_t *t)
{
    log_warning("worker: children did not leave within %d s and are killed", POOL_STOP_MS / 1000);
    pool_left(t->data);
}

static void start_leaving(struct worker *w)
{
    if (w->phase < PHASE_LEAVING)
        set_phase(w, PHASE_LEAVING);
    if (w->pool_stopping)
        return;
    w->pool_stopping = true;
    (void)uv_timer_start(&w->phase_timer, on_leave_deadline, LEAVE_MS, 0);
    (void)uv_timer_start(&w->gather_timer, on_pool_deadline, POOL_STOP_MS, 0);
    pool_stop(w->pool, pool_left, w);
}

static void on_ends_overdue(uv_timer_t *t)
{
    struct worker *w = t->data;
    w->ends_overdue = true;
    shutdown_step(w);
}

/* The last ends may complete a chord that has failed, and its errbacks need a child. */
static bool await_ends(struct worker *w)
{
    if (w->phase >= PHASE_COLD || w->ends_overdue)
        return false;
    if (w->n[DELIVERY_LEAVING] == 0)
        chord_drain(w);
    if (w->n[DELIVERY_LEAVING] + w->n_chords == 0)
        return false;
    if (!w->ends_awaited)
        (void)uv_timer_start(&w->gather_timer, on_ends_overdue, ENDS_MS, 0);
    w->ends_awaited = true;
    return true;
}

void shutdown_step(struct worker *w)
{
    if (w->phase <= PHASE_RUNNING || w->phase == PHASE_GONE || !w->claiming_stopped)
        return;
    if (w->n[DELIVERY_STARTING] + w->n[DELIVERY_SENT] == 0)
        return_unstarted(w);
    if (w->n[DELIVERY_RESERVED] + w->n[DELIVERY_HELD] + w->n[DELIVERY_STARTING] +
        w->n[DELIVERY_SENT] + w->n[DELIVERY_RUNNING])
        return;
    errbacks_pump(w);
    if (w->n_errbacks && w->phase < PHASE_COLD)
        return;
    if (await_ends(w))
        return;
    start_leaving(w);
    if (w->pool_gone && w->n[DELIVERY_LEAVING] == 0) {
        chord_drain(w);
        if (w->n_chords == 0)
            leave(w);
    }
}

static void claiming_stopped(void *arg)
{
    struct worker *w = arg;
    if (w->claiming_stopped)
        return;
    w->claiming_stopped = true;
    pool_recall(w->pool);
    (void)uv_timer_start(&w->gather_timer, on_gathered, GATHER_MS, 0);
    shutdown_step(w);
}

static void on_claiming_overdue(uv_timer_t *t)
{
    log_warning(
        "worker: Redis does not answer; leaving without its word that claiming has stopped");
    claiming_stopped(t->data);
}

static void stop_claiming(struct worker *w)
{
    (void)uv_timer_start(&w->gather_timer, on_claiming_overdue, STOP_CLAIMING_MS, 0);
    receive_pump(w); /* tells the transport that nothing more is wanted */
    transport_stop_claiming(w->transport, claiming_stopped, w);
}

/* ---- phases ---- */

static void ask_to_stop(struct worker *w)
{
    LIST_FOREACH(it, &w->lists[DELIVERY_RUNNING])
        pool_soft_stop(w->pool, LIST_ENTRY(it, struct delivery, node)->number);
}

static void kill_running(struct worker *w)
{
    set_phase(w, PHASE_COLD);
    (void)uv_timer_stop(&w->phase_timer);
    pool_recall(w->pool);
    LIST_FOREACH(it, &w->lists[DELIVERY_RUNNING])
        LIST_ENTRY(it, struct delivery, node)->kill = KILL_SHUTDOWN;
    LIST_FOREACH(it, &w->lists[DELIVERY_RUNNING])
        pool_kill(w->pool, LIST_ENTRY(it, struct delivery, node)->number, SIGKILL);
    shutdown_step(w);
}

void shutdown_started(struct delivery *d)
{
    struct worker *w = d->w;
    if (w->phase == PHASE_SOFT) {
        pool_soft_stop(w->pool, d->number);
    } else if (w->phase == PHASE_COLD) {
        d->kill = KILL_SHUTDOWN;
        pool_kill(w->pool, d->number, SIGKILL);
    }
}

static void on_soft_over(uv_timer_t *t)
{
    struct worker *w = t->data;
    log_warning("worker: %zu task(s) did not stop and are killed", w->n[DELIVERY_RUNNING]);
    kill_running(w);
}

static void on_drain_over(uv_timer_t *t)
{
    struct worker *w = t->data;
    log_warning("worker: drain timeout: asking %zu running task(s) to stop",
                w->n[DELIVERY_RUNNING]);
    set_phase(w, PHASE_SOFT);
    ask_to_stop(w);
    (void)uv_timer_start(&w->phase_timer, on_soft_over, SOFT_GRACE_MS, 0);
}

/* Before the pool is up nothing was claimed: just go. */
static void leave_early(struct worker *w)
{
    set_phase(w, PHASE_GONE);
    uv_stop(&w->loop);
}

void shutdown_warm(struct worker *w)
{
    if (w->phase == PHASE_STARTING) {
        leave_early(w);
        return;
    }
    if (w->phase != PHASE_RUNNING)
        return;
    set_phase(w, PHASE_DRAINING);
    if (w->config->drain_timeout_ms >= 0)
        (void)uv_timer_start(&w->phase_timer, on_drain_over, (uint64_t)w->config->drain_timeout_ms,
                             0);
    stop_claiming(w);
}

void shutdown_cold(struct worker *w)
{
    if (w->phase == PHASE_STARTING) {
        leave_early(w);
        return;
    }
    const struct settings *s = &w->config->settings;
    bool claiming = w->phase == PHASE_RUNNING;
    if (w->phase >= PHASE_COLD)
        return;
    bool busy = w->n[DELIVERY_RUNNING] + w->n[DELIVERY_SENT] > 0;
    if (w->phase < PHASE_SOFT && s->soft_shutdown_timeout > 0 &&
        (busy || s->soft_shutdown_on_idle)) {
        log_warning("Initiating Soft Shutdown, terminating in %g seconds",
                    s->soft_shutdown_timeout);
        set_phase(w, PHASE_SOFT);
        ask_to_stop(w);
        (void)uv_timer_start(&w->phase_timer, on_soft_over,
                             (uint64_t)(s->soft_shutdown_timeout * 1000), 0);
    } else {
        kill_running(w);
    }
    if (claiming)
        stop_claiming(w);
}

void shutdown_broken(struct worker *w, int exit_code)
{
    if (w->phase == PHASE_GONE)
        return;
    w->exit_code = exit_code;
    if (w->phase == PHASE_STARTING || !w->transport) {
        leave_early(w);
        return;
    }
    /* The pool will report nothing any more: what ran is lost, the rest goes back. */
    while (!list_empty(&w->lists[DELIVERY_SENT]))
        delivery_move_back(LIST_ENTRY(w->lists[DELIVERY_SENT].prev, struct delivery, node));
    LIST_FOREACH(it, &w->lists[DELIVERY_RUNNING]) {
        struct delivery *d = LIST_ENTRY(it, struct delivery, node);
        d->kill = KILL_SHUTDOWN;
        finish_lost(d, "Worker exited prematurely: its pool broke down.");
    }
    bool claiming = w->phase == PHASE_RUNNING;
    if (w->phase < PHASE_COLD)
        set_phase(w, PHASE_COLD);
    w->pool_stopping = w->pool_gone = true;
    (void)uv_timer_start(&w->phase_timer, on_leave_deadline, LEAVE_MS, 0);
    if (claiming)
        stop_claiming(w);
    shutdown_step(w);
}

/* ---- signals ---- */

static bool term_is_quit(void)
{
    return str_eq(opt_env("REMAP_SIGTERM"), "SIGQUIT");
}

static void at_once(struct worker *w)
{
    w->exit_code = 1;
    w->n_leaving = 0;
    left(w);
}

static void cold(struct worker *w, int exit_code)
{
    if (w->phase >= PHASE_COLD) {
        if (w->phase == PHASE_COLD)
            at_once(w);
        return;
    }
    w->exit_code = exit_code;
    if (w->phase == PHASE_SOFT) {
        say("Waiting gracefully for cold shutdown to complete...");
        kill_running(w);
        return;
    }
    say("worker: Hitting Ctrl+C again will terminate all running tasks!");
    say("worker: Cold shutdown (MainProcess)");
    shutdown_cold(w);
}

static void warm(struct worker *w, int exit_code)
{
    if (w->phase > PHASE_RUNNING)
        return;
    w->exit_code = exit_code;
    say("worker: Warm shutdown (MainProcess)");
    shutdown_warm(w);
}

static void interrupt(struct worker *w)
{
    if (++w->n_interrupts == 1 && w->phase <= PHASE_RUNNING) {
        say("worker: Hitting Ctrl+C again will initiate cold shutdown, terminating all running "
            "tasks!");
        warm(w, 1);
        return;
    }
    cold(w, 1);
}

void shutdown_tell_state(const struct worker *w)
{
    log_warning("worker: %s; reserved=%zu held=%zu starting=%zu sent=%zu running=%zu leaving=%zu "
                "room=%zu free=%zu",
                phase_name(w->phase), w->n[DELIVERY_RESERVED], w->n[DELIVERY_HELD],
                w->n[DELIVERY_STARTING], w->n[DELIVERY_SENT], w->n[DELIVERY_RUNNING],
                w->n[DELIVERY_LEAVING], pool_room(w->pool), pool_free_slots(w->pool));
}

static void on_signal(uv_signal_t *s, int signum)
{
    struct worker *w = s->data;
    if (signum == SIGTERM && term_is_quit())
        signum = SIGQUIT;
    switch (signum) {
    case SIGTERM:
        warm(w, 0);
        return;
    case SIGINT:
        interrupt(w);
        return;
    case SIGQUIT:
        cold(w, 0);
        return;
    case SIGHUP:
        log_warning("SIGHUP: restarting in place is not in this release; the worker goes on");
        return;
    case SIGUSR1:
        shutdown_tell_state(w);
        return;
    default:
        return;
    }
}

int shutdown_listen(struct worker *w)
{
    static const int signums[N_SIGNALS] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1};
    (void)signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < N_SIGNALS; i++) {
        int r = uv_signal_init(&w->loop, &w->signals[i]);
        if (r)
            return r;
        w->signals[i].data = w;
        r = uv_signal_start(&w->signals[i], on_signal, signums[i]);
        if (r)
            return r;
    }
    return 0;
}
