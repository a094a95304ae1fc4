/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper of a process's credentials.
 *
 *   nothing -> (load) -> good -> due, still good -> expired or rejected -> (load) ...
 *
 * They are due 5 to 6 minutes before they expire, drawn at random so that a fleet does not ask at once; of short-lived
 * ones half of the life is used. One thread loads; while the old ones are good the others take these, else they wait
 * for it. A load that failed beside good ones is tried again after half a minute. */

#include "celeryc/store/creds.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/store/creds_priv.h"

#include <errno.h>
#include <pthread.h>

#define US_PER_S     INT64_C(1000000)
#define EARLY_US     (300 * US_PER_S)
#define SPREAD_US    (60 * US_PER_S)
#define TRY_AGAIN_US (30 * US_PER_S)
#define NEVER_US     INT64_MAX

/* The mutex guards everything below; nothing is loaded, and nothing else locked, with it. */
struct creds_keeper {
    struct creds_ways ways;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct creds now; /* key_id NULL: none yet */
    bool rejected;    /* S3 has refused these */
    bool loading;
    int64_t due_us;
};

struct creds_keeper *creds_keeper_new(const struct creds_ways *w)
{
    struct creds_keeper *k = calloc(1, sizeof(*k));
    pthread_condattr_t attr;

    if (!k)
        return NULL;
    k->ways = *w;
    (void)pthread_mutex_init(&k->mutex, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&k->changed, &attr);
    (void)pthread_condattr_destroy(&attr);
    return k;
}

struct creds_keeper *creds_keeper_free(struct creds_keeper *k)
{
    if (!k)
        return NULL;
    creds_deinit(&k->now);
    (void)pthread_cond_destroy(&k->changed);
    (void)pthread_mutex_destroy(&k->mutex);
    free(k);
    return NULL;
}

/* One for the process: stores come and go with every batch, and services that give credentials count the calls. */
static struct creds_keeper *shared;
static pthread_once_t shared_once = PTHREAD_ONCE_INIT;

static void make_shared(void)
{
    shared = creds_keeper_new(&(struct creds_ways){creds_chain, clock_wall_us});
}

struct creds_keeper *creds_keeper_shared(void)
{
    (void)pthread_once(&shared_once, make_shared);
    return shared;
}

static int copy(const struct creds *from, struct creds *ret_c)
{
    CLEANUP(creds_deinit) struct creds c = *from;

    c.key_id = slice_dup(slice_str(from->key_id));
    c.secret = slice_dup(slice_str(from->secret));
    c.token = from->token ? slice_dup(slice_str(from->token)) : NULL;
    if (!c.key_id || !c.secret || (from->token && !c.token))
        return -ENOMEM;
    *ret_c = creds_take(&c);
    return 0;
}

static bool are_good(const struct creds_keeper *k, int64_t now_us)
{
    return k->now.key_id && !k->rejected && (!k->now.expires_us || now_us < k->now.expires_us);
}

static int64_t random_below(int64_t n)
{
    uint64_t r;

    random_bytes(&r, sizeof(r));
    return (int64_t)(r % (uint64_t)n);
}

static int64_t due_at(const struct creds *c, int64_t now_us)
{
    int64_t life_us = c->expires_us - now_us;

    if (!c->expires_us)
        return NEVER_US;
    if (life_us < 2 * (EARLY_US + SPREAD_US))
        return now_us + MAX(life_us / 2, US_PER_S);
    return c->expires_us - EARLY_US - random_below(SPREAD_US);
}

/* Called and left with the mutex held; loads without it. */
static int renew(struct creds_keeper *k, int64_t left_ms, struct err *e)
{
    CLEANUP(creds_deinit) struct creds fresh = {0};
    const char *source = k->now.source;
    int64_t now_us;
    int code;

    k->loading = true;
    (void)pthread_mutex_unlock(&k->mutex);
    code = k->ways.load(source, left_ms, &fresh, e);
    now_us = k->ways.now_us();
    (void)pthread_mutex_lock(&k->mutex);
    k->loading = false;
    if (code == 0) {
        fresh.generation = k->now.generation + 1;
        creds_deinit(&k->now);
        k->now = creds_take(&fresh);
        k->rejected = false;
        k->due_us = due_at(&k->now, now_us);
    } else {
        k->due_us = now_us + TRY_AGAIN_US + random_below(TRY_AGAIN_US);
    }
    (void)pthread_cond_broadcast(&k->changed);
    return code;
}

/* Until the loading thread has said something; its requests are bounded, so this is as well. */
static int await(struct creds_keeper *k, int64_t left_ms, struct err *e)
{
    int64_t end_ns = clock_mono_ns() + MAX(left_ms, 1) * NS_PER_MS;
    struct timespec end = {end_ns / NS_PER_S, end_ns % NS_PER_S};

    while (k->loading)
        if (pthread_cond_timedwait(&k->changed, &k->mutex, &end) == ETIMEDOUT && k->loading)
            return err_set(e, STORE_E_TRANSIENT, "no AWS credentials came in time");
    return 0;
}

static int get_locked(struct creds_keeper *k, int64_t left_ms, struct creds *ret_c, struct err *e)
{
    struct err why = ERR_INIT;
    int code = 0;

    while (!are_good(k, k->ways.now_us())) {
        if (!k->loading) {
            code = renew(k, left_ms, e);
            break;
        }
        code = await(k, left_ms, e);
        if (code)
            break;
    }
    if (code)
        return code;
    if (k->ways.now_us() >= k->due_us && !k->loading)
        (void)!renew(k, left_ms, &why); /* the old ones are still good */
    return copy(&k->now, ret_c);
}

int creds_get(struct creds_keeper *k, int64_t left_ms, struct creds *ret_c, struct err *e)
{
    int code;

    if (!k)
        return -ENOMEM;
    (void)pthread_mutex_lock(&k->mutex);
    code = get_locked(k, left_ms, ret_c, e);
    (void)pthread_mutex_unlock(&k->mutex);
    return code;
}

bool creds_reject(struct creds_keeper *k, const struct creds *c)
{
    bool may_help;

    (void)pthread_mutex_lock(&k->mutex);
    if (k->now.generation == c->generation)
        k->rejected = true;
    may_help = !str_eq(c->source, CREDS_ENVIRONMENT);
    (void)pthread_mutex_unlock(&k->mutex);
    return may_help;
}
