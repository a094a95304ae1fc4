/* SPDX-License-Identifier: Apache-2.0 */
/* What the store says about a task that is about to run, or to end, here: one GET, through the connection that holds the
 * results. Whoever cannot be asked now is said to be unknown, and the caller decides. */

#include "celeryc/worker/worker_priv.h"

#include "celeryc/base/log.h"
#include "celeryc/result/chord.h"

#include <errno.h>

struct lookup {
    struct delivery *d;
    lookup_fn fn;
    void *arg;
};

void lookup_eval(struct worker *w, const struct redis_script *s, redis_reply_fn fn, void *arg,
                 size_t n, const struct slice *argv)
{
    if (w->backend)
        result_backend_eval(w->backend, s, fn, arg, n, argv);
    else
        transport_eval(w->transport, s, fn, arg, n, argv);
}

bool lookup_possible(const struct delivery *d)
{
    return d->w->config->has_backend && d->m.id.p;
}

/* The text of the stored value in the delivery's arena, and what stands in it. */
static int read_record(struct delivery *d, struct slice stored, struct record_view *ret)
{
    struct slice text;
    int r = record_inflate(d->arena, stored, &text, NULL);
    char *copy = r ? NULL : arena_strdup(d->arena, text);
    if (r || !copy)
        return r ? r : -ENOMEM;
    return record_parse((struct slice){copy, text.len}, ret, NULL);
}

static void on_reply(const struct redis_reply *reply, void *arg)
{
    const struct lookup *l = arg;
    struct delivery *d = l->d;
    struct lookup_result r = {.known = redis_reply_ok(reply) && reply->kind == REDIS_R_ARRAY};
    if (r.known && reply->n == 1 && reply->elem[0]->kind == REDIS_R_STRING) {
        int rc = read_record(d, reply->elem[0]->str, &r.record);
        if (rc)
            log_warning("the record of " DELIVERY_FMT " cannot be read: %s", DELIVERY_ARGS(d),
                        rc == -ENOMEM ? "out of memory" : "it is not one of Celery's");
        r.known = rc != -ENOMEM;
        r.success = rc == 0 && record_succeeded(&r.record);
    }
    l->fn(&r, l->arg);
}

void lookup_record(struct delivery *d, lookup_fn fn, void *arg)
{
    struct worker *w = d->w;
    const char *prefix = w->config->settings.result_keyprefix;
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    struct lookup *l = arena_alloc(d->arena, sizeof(*l));
    result_key(&key, prefix ? prefix : "", d->m.id);
    if (!l || buf_ok(&key)) {
        log_error("out of memory: what is stored for " DELIVERY_FMT " is not looked at",
                  DELIVERY_ARGS(d));
        fn(&(struct lookup_result){0}, arg);
        return;
    }
    *l = (struct lookup){d, fn, arg};
    const struct slice argv[] = {buf_slice(&key)};
    lookup_eval(w, &chord_leaves, on_reply, l, ARRAY_SIZE(argv), argv);
}
