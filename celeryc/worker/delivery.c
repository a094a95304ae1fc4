/* SPDX-License-Identifier: Apache-2.0 */
/* Deliveries: memory, states, and the table that finds one by its job number.
 *
 * Moves: NEW -> RESERVED | HELD | LEAVING; HELD -> RESERVED | LEAVING; RESERVED -> STARTING | SENT | LEAVING;
 * STARTING -> SENT | RESERVED | LEAVING; SENT -> RUNNING | RESERVED | LEAVING; RUNNING -> RESERVED | LEAVING;
 * LEAVING -> freed. A delivery leaves only through finish.c, or is dropped when its claim turns out to be lost. */

#include "celeryc/worker/worker_priv.h"

#include "celeryc/base/log.h"

#include <errno.h>

#define MAX_SPARE   512
#define SPARE_BYTES (64u << 10) /* an arena that grew beyond this is not kept */

#define BIT(s) (1u << (s))

static const unsigned allowed[DELIVERY_STATES] = {
    [DELIVERY_NEW] = BIT(DELIVERY_RESERVED) | BIT(DELIVERY_HELD) | BIT(DELIVERY_LEAVING),
    [DELIVERY_RESERVED] = BIT(DELIVERY_STARTING) | BIT(DELIVERY_SENT) | BIT(DELIVERY_LEAVING),
    [DELIVERY_HELD] = BIT(DELIVERY_RESERVED) | BIT(DELIVERY_LEAVING),
    [DELIVERY_STARTING] = BIT(DELIVERY_SENT) | BIT(DELIVERY_RESERVED) | BIT(DELIVERY_LEAVING),
    [DELIVERY_SENT] = BIT(DELIVERY_RUNNING) | BIT(DELIVERY_RESERVED) | BIT(DELIVERY_LEAVING),
    [DELIVERY_RUNNING] = BIT(DELIVERY_RESERVED) | BIT(DELIVERY_LEAVING),
};

static const char *const state_names[DELIVERY_STATES] = {
    "new", "reserved", "held", "starting", "sent", "running", "leaving",
};

static size_t place(const struct worker *w, uint64_t number)
{
    return (size_t)(number & (w->n_jobs - 1));
}

/* Numbers that differ modulo n differ modulo 2n as well, so moving never collides. */
static int grow(struct worker *w)
{
    size_t n = w->n_jobs ? w->n_jobs * 2 : 1024;
    struct delivery **jobs = calloc(n, sizeof(struct delivery *));
    if (!jobs)
        return -ENOMEM;
    for (size_t i = 0; i < w->n_jobs; i++)
        if (w->jobs[i])
            jobs[w->jobs[i]->number & (n - 1)] = w->jobs[i];
    free(w->jobs);
    w->jobs = jobs;
    w->n_jobs = n;
    return 0;
}

static size_t count_live(const struct worker *w)
{
    size_t n = 0;
    for (size_t i = 0; i < DELIVERY_STATES; i++)
        n += w->n[i];
    return n;
}

/* The next number whose place is free; with at least half of the places free there is always one near. */
static int take_number(struct worker *w, struct delivery *d)
{
    if (count_live(w) * 2 >= w->n_jobs) {
        int r = grow(w);
        if (r)
            return r;
    }
    do
        d->number = ++w->next_number;
    while (w->jobs[place(w, d->number)]);
    w->jobs[place(w, d->number)] = d;
    return 0;
}

static struct delivery *make(struct worker *w)
{
    if (!list_empty(&w->spare)) {
        struct delivery *d = LIST_ENTRY(w->spare.next, struct delivery, node);
        struct arena *arena = d->arena;
        list_remove(&d->node);
        w->n_spare--;
        *d = (struct delivery){.w = w, .arena = arena};
        return d;
    }
    struct delivery *d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    d->w = w;
    d->arena = arena_new();
    if (!d->arena) {
        free(d);
        return NULL;
    }
    return d;
}

static void unmake(struct delivery *d)
{
    struct worker *w = d->w;
    if (w->n_spare < MAX_SPARE && arena_used(d->arena) <= SPARE_BYTES) {
        arena_reset(d->arena);
        list_push_front(&w->spare, &d->node);
        w->n_spare++;
        return;
    }
    arena_free(d->arena);
    free(d);
}

struct delivery *delivery_new(struct worker *w, struct claim *c_take)
{
    struct delivery *d = make(w);
    if (!d) {
        claim_free(c_take);
        return NULL;
    }
    list_init(&d->node);
    if (take_number(w, d)) {
        claim_free(c_take);
        unmake(d);
        return NULL;
    }
    d->claim = c_take;
    return d;
}

static void leave_state(struct delivery *d)
{
    struct worker *w = d->w;
    if (d->state == DELIVERY_NEW)
        return;
    list_remove(&d->node);
    w->n[d->state]--;
    if (d->state == DELIVERY_HELD)
        w->held_bytes -= d->claim->raw_len;
    w->n_puzzled -= d->puzzled;
    d->puzzled = false;
}

void delivery_free(struct delivery *d)
{
    struct worker *w = d->w;
    limits_stop(d);
    leave_state(d);
    w->jobs[place(w, d->number)] = NULL;
    d->claim = claim_free(d->claim);
    unmake(d);
}

static void enter(struct delivery *d, enum delivery_state to)
{
    struct worker *w = d->w;
    ASSERT(allowed[d->state] & BIT(to));
    if (log_enabled(LOG_DEBUG) && d->m.id.p)
        log_write(LOG_DEBUG, DELIVERY_FMT " %s -> %s", DELIVERY_ARGS(d), state_names[d->state],
                  state_names[to]);
    if (d->state == DELIVERY_RUNNING || d->state == DELIVERY_HELD)
        limits_stop(d);
    leave_state(d);
    d->state = to;
    w->n[to]++;
    if (to == DELIVERY_HELD)
        w->held_bytes += d->claim->raw_len;
}

void delivery_move(struct delivery *d, enum delivery_state to)
{
    enter(d, to);
    list_push_back(&d->w->lists[to], &d->node);
}

void delivery_move_back(struct delivery *d)
{
    struct list *head = &d->w->lists[DELIVERY_RESERVED];
    enter(d, DELIVERY_RESERVED);
    struct list *after = head;
    LIST_FOREACH(it, head) {
        if (LIST_ENTRY(it, struct delivery, node)->number > d->number)
            break;
        after = it;
    }
    list_push_front(after, &d->node);
}

struct delivery *delivery_find(struct worker *w, uint64_t number)
{
    struct delivery *d = w->n_jobs ? w->jobs[place(w, number)] : NULL;
    return d && d->number == number ? d : NULL;
}

void delivery_drop_spare(struct worker *w)
{
    LIST_FOREACH(it, &w->spare) {
        struct delivery *d = LIST_ENTRY(it, struct delivery, node);
        arena_free(d->arena);
        free(d);
    }
    list_init(&w->spare);
    w->n_spare = 0;
}
