/* SPDX-License-Identifier: Apache-2.0 */
/* Threads share a keeper whose credentials are refused and expire under their hands: each gets whole ones, good at that
 * time, and never two threads load at once. A plain program, so that it runs under the thread sanitizer, too. */

#include "celeryc/store/creds.h"

#include <pthread.h>
#include <stdatomic.h>

#define THREADS 6
#define TURNS   500

static _Atomic int64_t time_us = 1;
static atomic_int loading, loads;
static struct creds_keeper *keeper;

static int64_t now(void)
{
    return atomic_load(&time_us);
}

static int load(const char *source, int64_t left_ms, struct creds *ret_c, struct err *e)
{
    char text[32];

    (void)source;
    (void)left_ms;
    (void)e;
    ASSERT(atomic_fetch_add(&loading, 1) == 0);
    (void)snprintf(text, sizeof(text), "K%d", atomic_fetch_add(&loads, 1));
    *ret_c = (struct creds){.key_id = slice_dup(slice_str(text)),
                            .secret = slice_dup(slice_str(text)),
                            .token = slice_dup(slice_str(text)),
                            .expires_us = now() + 10000000,
                            .source = "test"};
    ASSERT(atomic_fetch_sub(&loading, 1) == 1);
    return 0;
}

static void *use(void *arg)
{
    for (int i = 0; i < TURNS; i++) {
        CLEANUP(creds_deinit) struct creds c = {0};

        ASSERT(creds_get(keeper, 60000, &c, NULL) == 0);
        ASSERT(str_eq(c.key_id, c.secret) && str_eq(c.key_id, c.token));
        if (i % 16 == 0)
            (void)creds_reject(keeper, &c);
        atomic_fetch_add(&time_us, 1000);
    }
    return arg;
}

int main(void)
{
    pthread_t threads[THREADS];

    keeper = creds_keeper_new(&(struct creds_ways){load, now});
    ASSERT(keeper);
    for (size_t i = 0; i < THREADS; i++)
        ASSERT(pthread_create(&threads[i], NULL, use, NULL) == 0);
    for (size_t i = 0; i < THREADS; i++)
        ASSERT(pthread_join(threads[i], NULL) == 0);
    ASSERT(atomic_load(&loads) > 1);
    keeper = creds_keeper_free(keeper);
    return 0;
}
