/* SPDX-License-Identifier: Apache-2.0 */
/* The body of a complete chord: sent with the results, or failed. The states are those of chord.c.
 *
 * What must never happen: a body that is sent twice, or by one whose claim was taken. */

#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"
#include "celeryc/message/record.h"
#include "celeryc/result/chord.h"
#include "celeryc/worker/chord_priv.h"
#include "celeryc/worker/errback.h"

#include <errno.h>

#define PAUSE_MS 20

static void settled(const struct redis_reply *reply, void *arg)
{
    struct chord *c = arg;
    if (redis_reply_ok(reply) && reply->integer == 0)
        log_warning("chord %.*s: the claim was lost before the cleanup; it is left for expiry",
                    (int)c->note.group.len, c->note.group.p);
    else if (redis_reply_ok(reply))
        transport_forget_once(c->w->transport, c->note.nonce.p);
    chord_drop(c);
}

/* A backend of its own: the messages are out. */
static void sent(enum transport_done done, void *arg)
{
    struct chord *c = arg;
    (void)done;
    const struct slice argv[] = {c->key, slice_str(c->token),
                                 c->failed ? SLICE_LIT("e") : SLICE_LIT("b"),
                                 c->w->chords.fire_key};
    lookup_eval(c->w, &chord_settle, settled, c, ARRAY_SIZE(argv), argv);
}

void chord_tell_lost(const struct chord *c)
{
    log_warning("chord %.*s: its body was not sent here: the claim is another worker's now",
                (int)c->note.group.len, c->note.group.p);
}

static void begun(enum result_done done, void *arg)
{
    struct chord *c = arg;
    if (done == RESULT_LOST) {
        chord_tell_lost(c);
        chord_drop(c);
        return;
    }
    if (done == RESULT_CLAIMED)
        chord_claimed(c->w, &c->fx);
    errbacks_add(c->w, &c->calls);
    transport_publish_once(c->w->transport, c->note.nonce.p, c->fx.n_push, c->fx.push, sent, c);
}

static void fired(enum transport_done done, void *arg)
{
    struct chord *c = arg;
    if (done == TRANSPORT_LOST)
        chord_tell_lost(c);
    else
        errbacks_add(c->w, &c->calls);
    if (done == TRANSPORT_CLAIMED)
        chord_claimed(c->w, &c->fx);
    chord_drop(c);
}

static struct canvas_parent parent_of(const struct chord *c)
{
    return (struct canvas_parent){c->note.parent, c->note.root, c->note.priority};
}

static void fire_now(struct chord *c)
{
    struct worker *w = c->w;
    c->state = CHORD_FIRING;
    if (w->backend) {
        result_backend_begin_fire(w->backend, c->key, c->token, CHORD_CLAIM_S, &c->fx.x, begun, c);
        return;
    }
    const struct transport_fire f = {.key = c->key,
                                     .fire_key = w->chords.fire_key,
                                     .token = c->token,
                                     .failed = c->failed,
                                     .end = effects_end(&c->fx)};
    transport_fire_chord(w->transport, &f, fired, c);
}

/* ---- the pause ----
 * A Python client that begins to wait for the body looks whether a member has failed, to raise that error, then whether
 * the body has ended. If both happened in between it raises the ChordError. So the body fails a little later. */

static void unpause(uv_timer_t *t)
{
    struct worker *w = t->data;
    uint64_t next_ms = 0;
    struct list *it = w->firing.next;
    while (it != &w->firing) {
        struct chord *c = LIST_ENTRY(it, struct chord, node);
        it = it->next;
        if (c->state != CHORD_PAUSED)
            continue;
        if (c->fire_ms <= uv_now(&w->loop))
            fire_now(c);
        else if (!next_ms || c->fire_ms < next_ms)
            next_ms = c->fire_ms;
    }
    if (next_ms)
        (void)uv_timer_start(t, unpause, next_ms - uv_now(&w->loop), 0);
}

static void pause_chord(struct chord *c)
{
    struct worker *w = c->w;
    c->state = CHORD_PAUSED;
    c->fire_ms = uv_now(&w->loop) + PAUSE_MS;
    if (!uv_is_active((uv_handle_t *)&w->pause_timer))
        (void)uv_timer_start(&w->pause_timer, unpause, PAUSE_MS, 0);
}

static void fire(struct chord *c, const struct canvas_effects *fx, bool failed)
{
    const struct canvas_parent p = parent_of(c);
    c->failed = failed;
    if (effects_make(c->w, c->arena, fx, &p, &c->fx))
        chord_drop_for_memory(c);
    else if (c->member_failed && uv_is_active((uv_handle_t *)&c->w->chord_timer))
        pause_chord(c);
    else
        fire_now(c);
}

void chord_fail(struct chord *c, const struct canvas_exception *x,
                const struct canvas_exception *cause, bool settle_failed)
{
    struct canvas_effects fx = canvas_effects_init(c->arena);
    const struct canvas_settings s = task_canvas_settings(c->w->table, &c->w->settings);
    const struct canvas_parent p = parent_of(c);
    CLEANUP(buf_deinit) struct buf repr = BUF_INIT;
    record_write_exception_repr(&repr, x->type, x->args);
    log_error("Chord '%.*s' raised: %s", (int)c->note.group.len, c->note.group.p,
              repr.data ? repr.data : "");
    if (canvas_fail_body(&s, c->note.body, x, cause, c->called, &p, &fx)) {
        chord_drop_for_memory(c);
        return;
    }
    c->calls = fx;
    c->member_failed = cause;
    fire(c, &fx, settle_failed);
}

void chord_fail_with(struct chord *c, const char *what, struct slice text, bool settle_failed)
{
    CLEANUP(buf_deinit) struct buf message = BUF_INIT;
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    buf_appendf(&message, "%s: ", what);
    buf_append_slice(&message, text);
    buf_append_char(&args, '[');
    json_write_string(&args, buf_slice(&message));
    buf_append_char(&args, ']');
    char *kept = message.failed || args.failed ? NULL : arena_strdup(c->arena, buf_slice(&args));
    if (!kept) {
        chord_drop_for_memory(c);
        return;
    }
    const struct canvas_exception x = {.type = SLICE_LIT("ChordError"),
                                       .module = SLICE_LIT("celery.exceptions"),
                                       .args = {kept, args.len}};
    chord_fail(c, &x, NULL, settle_failed);
}

static bool too_large(const struct canvas_effects *fx)
{
    for (size_t i = 0; i < fx->n_messages; i++)
        if (fx->messages[i].raw.len > LIMIT_MESSAGE_BYTES)
            return true;
    return false;
}

void chord_send_body(struct chord *c, size_t n, const struct slice *results)
{
    struct canvas_effects fx = canvas_effects_init(c->arena);
    const struct canvas_settings s = task_canvas_settings(c->w->table, &c->w->settings);
    const struct canvas_parent p = parent_of(c);
    struct err e = ERR_INIT;
    int r = canvas_fire(&s, c->note.body, n, results, &p, &fx, &e);
    if (r == 0 && too_large(&fx))
        r = err_set(&e, CANVAS_E_BAD, "its message is larger than %u bytes", LIMIT_MESSAGE_BYTES);
    if (r == CANVAS_E_BAD)
        chord_fail_with(c, "Callback error", slice_str(err_text(&e, -EINVAL)), false);
    else if (r)
        chord_drop_for_memory(c);
    else
        fire(c, &fx, false);
}
