/* SPDX-License-Identifier: Apache-2.0 */
/* Operations that end something and have consequences: the finish of a delivery, a parked message, a chord that is
 * fired. Each is one operation of the batch (see ops.c), so that all of it happens or nothing.
 *
 * An END in the arguments is: number of pushes, number of effect arguments, pairs of list and message, effects. */
#include <errno.h>

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/num.h"
#include "celeryc/message/json.h"
#include "celeryc/transport/stored.h"
#include "celeryc/transport/transport_priv.h"

/* One operation being put together. */
struct draft {
    struct transport *t;
    struct arena *arena; /* texts of the arguments; NULL: out of memory */
    struct result_args args;
};

static struct draft draft_begin(struct transport *t)
{
    struct arena *arena = arena_new();
    return (struct draft){t, arena, {.arena = arena, .failed = !arena}};
}

static void put(struct draft *d, struct slice s)
{
    result_args_add(&d->args, s);
}

static void put_str(struct draft *d, const char *s)
{
    put(d, slice_str(s));
}

static void put_i64(struct draft *d, int64_t v)
{
    if (d->arena)
        result_args_i64(&d->args, v);
}

/* key, value, ttl of a record, or of none. */
static void put_record(struct draft *d, const struct transport_record *r)
{
    bool there = r && r->key.p;
    put(d, there ? r->key : SLICE_LIT(""));
    put(d, there ? r->value : SLICE_LIT(""));
    put_i64(d, there && r->ttl_s > 0 ? r->ttl_s : 0);
}

static void put_end(struct draft *d, const struct transport_end *x)
{
    put_i64(d, (int64_t)x->n_push);
    put_i64(d, (int64_t)result_effects_width(x->effects));
    for (size_t i = 0; d->arena && i < x->n_push; i++) {
        char *key = transport_list_key(d->t, x->push[i].queue, x->push[i].priority);
        char *kept = key ? arena_strdup(d->arena, slice_str(key)) : NULL;
        free(key);
        if (!kept)
            d->args.failed = true;
        put_str(d, kept ? kept : "");
        put(d, x->push[i].raw);
    }
    if (d->arena)
        result_args_effects(&d->args, x->effects);
}

static void draft_issue(struct draft *d, const struct op *like)
{
    if (d->args.failed)
        transport_die(d->t, "out of memory");
    else
        ops_issue(d->t, like, d->args.n, d->args.v);
    result_args_deinit(&d->args);
    d->arena = arena_free(d->arena);
}

void ends_note_records(struct transport *t, const struct op *op)
{
    /* Arguments in front of an END, and which of them is the key of a record. */
    static const struct {
        char kind;
        uint8_t n, key;
    } shapes[] = {{'F', 5, 2}, {'P', 7, 4}, {'X', 0, 0}, {'C', 4, 0}};

    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        if (shapes[i].kind != op->kind)
            continue;
        if (shapes[i].key)
            result_late_note(t->late, op->argv[shapes[i].key]);
        int64_t n_push = 0;
        size_t at = 0;
        struct slice key;
        if (num_parse_i64(op->argv[shapes[i].n], &n_push))
            return;
        const size_t skip = shapes[i].n + 2 + 2 * (size_t)n_push;
        while (result_effects_next_record(op->n - skip, op->argv + skip, &at, &key))
            result_late_note(t->late, key);
    }
}

void transport_finish_with(struct transport *t, const struct claim *c,
                           const struct transport_end *end, transport_done_fn fn, void *arg)
{
    struct draft d = draft_begin(t);
    put_str(&d, c->field);
    put_str(&d, c->started ? "1" : "0");
    put_record(&d, end->record);
    put_end(&d, end);
    draft_issue(&d, &(struct op){.kind = 'F', .seq = claim_seq(t, c), .fn = fn, .arg = arg});
}

void transport_finish(struct transport *t, const struct claim *c,
                      const struct transport_record *record, size_t n_push,
                      const struct transport_push *push, transport_done_fn fn, void *arg)
{
    const struct transport_end end = {.record = record, .n_push = n_push, .push = push};
    transport_finish_with(t, c, &end, fn, arg);
}

void transport_park_with(struct transport *t, const struct claim *c, const char *reason,
                         const struct transport_end *end, transport_done_fn fn, void *arg)
{
    CLEANUP(buf_deinit) struct buf item = BUF_INIT;
    CLEANUP(mem_free) char *list = key_of(t, "celeryc:dead:%s", c->queue);
    struct slice raw = {c->raw, c->raw_len};
    if (!list || dead_entry_write(&item, slice_str(c->queue), raw, reason)) {
        transport_die(t, "out of memory");
        return;
    }
    struct draft d = draft_begin(t);
    put_str(&d, c->field);
    put_str(&d, c->started ? "1" : "0");
    put_str(&d, list);
    put(&d, buf_slice(&item));
    put_record(&d, end->record);
    put_end(&d, end);
    draft_issue(&d, &(struct op){.kind = 'P', .seq = claim_seq(t, c), .fn = fn, .arg = arg});
}

void transport_park(struct transport *t, const struct claim *c, const char *reason,
                    const struct transport_record *record, transport_done_fn fn, void *arg)
{
    const struct transport_end end = {.record = record};
    transport_park_with(t, c, reason, &end, fn, arg);
}

void transport_apply(struct transport *t, const struct transport_end *end, transport_done_fn fn,
                     void *arg)
{
    if (end->record)
        transport_store(t, end->record, NULL, NULL);
    struct draft d = draft_begin(t);
    put_end(&d, end);
    draft_issue(&d, &(struct op){.kind = 'X', .fn = fn, .arg = arg});
}

void transport_fire_chord(struct transport *t, const struct transport_fire *fire,
                          transport_done_fn fn, void *arg)
{
    struct draft d = draft_begin(t);
    put(&d, fire->key);
    put_str(&d, fire->token);
    put_str(&d, fire->failed ? "e" : "b");
    put(&d, fire->fire_key);
    put_end(&d, &fire->end);
    draft_issue(&d, &(struct op){.kind = 'C', .fn = fn, .arg = arg});
}

void transport_publish_once(struct transport *t, const char *nonce, size_t n_push,
                            const struct transport_push *push, transport_done_fn fn, void *arg)
{
    const struct transport_end end = {.n_push = n_push, .push = push};
    CLEANUP(mem_free) char *marker = key_of(t, "celeryc:fired:%s", nonce);
    struct draft d = draft_begin(t);
    if (!marker)
        d.args.failed = true;
    put_str(&d, marker);
    put_end(&d, &end);
    draft_issue(&d, &(struct op){.kind = 'G', .fn = fn, .arg = arg});
}

void transport_eval(struct transport *t, const struct redis_script *s, redis_reply_fn fn, void *arg,
                    size_t n, const struct slice *argv)
{
    redis_eval(t->cmd, s, fn, arg, n, argv);
}

void transport_forget_once(struct transport *t, const char *nonce)
{
    CLEANUP(mem_free) char *marker = key_of(t, "celeryc:fired:%s", nonce);
    if (marker) /* else its time runs out */
        ops_issue(t, &(struct op){.kind = 'E'}, 1, (struct slice[]){slice_str(marker)});
}
