/* SPDX-License-Identifier: Apache-2.0 */
/* A few threads, one object each. A slot is free, or filled by the caller and emptied by its thread.
 *
 * The mutex guards everything in struct upload and every slot's state; a slot's object belongs to its thread while it
 * is busy. Nothing else is held with it, and no store is called under it. After the first failure nothing more is
 * written: what a failed planner leaves is to be known. */

#include "planner/upload.h"

#include "celeryc/store/store.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>

struct slot {
    struct upload *owner;
    pthread_t thread;
    bool started;
    bool busy;
    struct store *store;
    char *name;
    struct buf bytes;
};

struct upload {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool ending;
    int code; /* the first failure */
    struct err err;
    size_t n;
    struct slot slots[UPLOAD_THREADS_MAX];
};

/* Called with the mutex held; gives it up while the store works. */
static void store_one(struct slot *s)
{
    struct upload *u = s->owner;
    struct err e = ERR_INIT;
    int code = u->code;

    if (code == 0) {
        (void)pthread_mutex_unlock(&u->mutex);
        code = store_put(s->store, s->name, buf_slice(&s->bytes), "application/zstd", 0, &e);
        (void)pthread_mutex_lock(&u->mutex);
        if (code && u->code == 0) {
            u->code = code;
            u->err = e;
        }
    }
    free(s->name);
    s->name = NULL;
    buf_deinit(&s->bytes);
    s->busy = false;
    (void)pthread_cond_broadcast(&u->changed);
}

static void *run(void *arg)
{
    struct slot *s = arg;
    struct upload *u = s->owner;

    (void)pthread_mutex_lock(&u->mutex);
    while (s->busy || !u->ending) {
        if (s->busy)
            store_one(s);
        else
            (void)pthread_cond_wait(&u->changed, &u->mutex);
    }
    (void)pthread_mutex_unlock(&u->mutex);
    return NULL;
}

/* Signals are the main thread's. */
static int start_thread(struct slot *s)
{
    sigset_t all, old;
    int r;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(&s->thread, NULL, run, s);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    s->started = r == 0;
    return -r;
}

int upload_new(const char *store_url, unsigned threads, struct upload **ret_u, struct err *e)
{
    CLEANUP(upload_free) struct upload *u = calloc(1, sizeof(*u));

    if (!u)
        return -ENOMEM;
    (void)pthread_mutex_init(&u->mutex, NULL);
    (void)pthread_cond_init(&u->changed, NULL);
    for (unsigned i = 0; i < MIN(MAX(threads, 1u), UPLOAD_THREADS_MAX); i++) {
        struct slot *s = &u->slots[i];
        int code;

        s->owner = u;
        code = store_open(store_url, &s->store, e);
        if (code)
            return code;
        u->n++;
        code = start_thread(s);
        if (code)
            return err_set(e, code, "cannot start a thread: %s", err_errno(code));
    }
    *ret_u = STEAL(u);
    return 0;
}

static struct slot *free_slot(struct upload *u)
{
    for (size_t i = 0; i < u->n; i++)
        if (!u->slots[i].busy)
            return &u->slots[i];
    return NULL;
}

static int failure(struct upload *u, struct err *e)
{
    return u->code ? err_set(e, u->code, "%s", err_text(&u->err, u->code)) : 0;
}

int upload_put(struct upload *u, const char *name, struct buf *b, struct err *e)
{
    CLEANUP(buf_deinit) struct buf bytes = *b;
    char *copy = slice_dup(slice_str(name));
    struct slot *s;
    int code;

    *b = BUF_INIT;
    if (!copy || buf_ok(&bytes)) {
        free(copy);
        return -ENOMEM;
    }
    (void)pthread_mutex_lock(&u->mutex);
    while (!(s = free_slot(u)))
        (void)pthread_cond_wait(&u->changed, &u->mutex);
    code = failure(u, e);
    if (code == 0) {
        s->name = copy;
        copy = NULL;
        s->bytes = bytes;
        bytes = BUF_INIT;
        s->busy = true;
        (void)pthread_cond_broadcast(&u->changed);
    }
    (void)pthread_mutex_unlock(&u->mutex);
    free(copy);
    return code;
}

int upload_wait(struct upload *u, struct err *e)
{
    int code;

    (void)pthread_mutex_lock(&u->mutex);
    for (size_t i = 0; i < u->n; i++)
        while (u->slots[i].busy)
            (void)pthread_cond_wait(&u->changed, &u->mutex);
    code = failure(u, e);
    (void)pthread_mutex_unlock(&u->mutex);
    return code;
}

struct upload *upload_free(struct upload *u)
{
    if (!u)
        return NULL;
    (void)pthread_mutex_lock(&u->mutex);
    u->ending = true;
    (void)pthread_cond_broadcast(&u->changed);
    (void)pthread_mutex_unlock(&u->mutex);
    for (size_t i = 0; i < UPLOAD_THREADS_MAX; i++) {
        if (u->slots[i].started)
            (void)pthread_join(u->slots[i].thread, NULL);
        store_close(u->slots[i].store);
    }
    (void)pthread_cond_destroy(&u->changed);
    (void)pthread_mutex_destroy(&u->mutex);
    free(u);
    return NULL;
}
