/* SPDX-License-Identifier: Apache-2.0 */
/* What follows when a task has failed, was revoked, or a chord cannot be completed (celery/backends/base.py
 * mark_as_failure, _fail_chain, chord_error_from_stack): the chord part, a record and a part for everything that will
 * not run, the errbacks.
 *
 * What must never happen: a chord that waits for a part that nobody will send. So we go further than Celery in places
 * where it lets an outer chord wait for ever: steps behind a revoked task, groups and chains inside the steps, and the
 * body of an inner chord that failed. A signature that cannot be read ends nothing but itself. */

#include "celeryc/canvas/canvas_priv.h"

#include "celeryc/base/limits.h"
#include "celeryc/message/record.h"

#include <errno.h>

/* ---- what will not run ---- */

#define IGNORED "IGNORED"

struct walk {
    struct slice exception; /* JSON */
    struct slice traceback;
    const char *state; /* FAILURE, REVOKED or IGNORED */
    bool store;
    bool bare; /* records without a word on the task: what Celery writes for the body of a chord */
    struct slice part; /* the exception in parts; p NULL: that of the records */
};

/* The errbacks that were sent: a client finds them in the record of the body. */
static struct slice children_so_far(struct canvas *c)
{
    struct buf b = BUF_INIT;

    buf_append_char(&b, '[');
    buf_append_slice(&b, buf_slice(&c->children));
    buf_append_char(&b, ']');
    return canvas_keep(c, &b);
}

static void fail_record(struct canvas *c, const struct walk *w, struct json_val sig,
                        struct slice id)
{
    struct json_val options = json_get(sig, "options"), args = json_get(sig, "args");
    struct json_val kwargs = json_get(sig, "kwargs");
    struct buf b = BUF_INIT;
    const struct record bare = {
        .status = w->state,
        .result = w->exception,
        .children = w->bare ? children_so_far(c) : SLICE_NULL,
        /* A long chain would repeat the traceback beyond what a frame can hold. */
        .traceback = c->bytes < LIMIT_FRAME_BYTES / 2 ? w->traceback : SLICE_NULL,
        .done_us = c->s->now_us,
        .task_id = id,
    };
    const struct record full = {
        .status = w->state,
        .result = w->exception,
        .traceback = bare.traceback,
        .done_us = c->s->now_us,
        .group_id = canvas_text_of(c, options, "group_id"),
        .parent_id = canvas_text_of(c, options, "parent_id"),
        .task_id = id,
        .extended = c->s->result_extended,
        .name = canvas_text_of(c, sig, "task"),
        .args = args.raw,
        .kwargs = kwargs.raw,
    };

    if (record_write(&b, w->bare ? &bare : &full))
        (void)canvas_fail(c, -ENOMEM);
    else
        effect_record(c, id, canvas_keep(c, &b), str_eq(w->state, "FAILURE"));
    buf_deinit(&b);
}

static void fail_part(struct canvas *c, const struct walk *w, struct json_val options,
                      struct slice id)
{
    struct json_val chord = json_get(options, "chord");
    struct slice group_id = canvas_text_of(c, options, "group_id");
    bool marked = w->part.p && c->bytes < LIMIT_FRAME_BYTES / 2;
    struct slice exception = marked ? w->part : w->exception;

    if (chord.kind != JSON_K_OBJECT || !group_id.p || !id.p)
        return;
    effect_part(c, (struct canvas_part){.group_id = group_id,
                                        .task_id = id,
                                        .score = canvas_score(json_get(options, "group_index")),
                                        .member = canvas_member(c, id, w->state, exception),
                                        .body = chord.raw,
                                        .failed = !str_eq(w->state, IGNORED)});
}

static void fail_step(struct canvas *c, const struct walk *w, struct json_val sig);

static void fail_all(struct canvas *c, const struct walk *w, struct json_val list)
{
    struct json_iter it;

    for (json_iter_init(&it, list); json_next(&it) && c->code == 0;)
        fail_step(c, w, it.val);
}

/* Every id that a reader may wait for gets the record, everything that counts in a chord its part; a group and a chain
 * count by their members. */
static void fail_step(struct canvas *c, const struct walk *w, struct json_val sig)
{
    struct json_val options = json_get(sig, "options"), kwargs = json_get(sig, "kwargs");
    struct slice id = canvas_text_of(c, options, "task_id");
    bool group = canvas_is_type(sig, "group"), chain = canvas_is_type(sig, "chain");
    const struct canvas_mark before = canvas_mark(c);

    if (w->store && id.p && !chain)
        fail_record(c, w, sig, id);
    if (!group && !chain)
        fail_part(c, w, options, id);
    (void)canvas_undo(c, &before);
    if (group || chain)
        fail_all(c, w, json_get(kwargs, "tasks"));
    if (canvas_is_type(sig, "chord"))
        fail_step(c, w, json_get(kwargs, "body"));
}

/* ---- a task ---- */

static struct walk walk_of(struct canvas *c, const struct canvas_exception *x, const char *state,
                           bool store)
{
    struct buf b = BUF_INIT;

    record_write_exception(&b, x->type, x->args, x->module);
    return (struct walk){canvas_keep(c, &b), x->traceback, state, store, false, SLICE_NULL};
}

int canvas_failure(const struct canvas_settings *s, const struct message *m,
                   const struct message_body *b, const struct canvas_exception *x, bool revoked,
                   bool store, struct canvas_effects *ret)
{
    const struct canvas_parent parent = canvas_parent_of(m);
    struct err e = ERR_INIT;
    struct canvas c = canvas_begin(s, &parent, ret, &e);
    const char *state = revoked ? "REVOKED" : "FAILURE";
    struct values errbacks;
    struct walk w;

    if (!b || (json_is_null(b->errbacks) && json_is_null(b->chain) && json_is_null(b->chord)))
        return 0;
    w = walk_of(&c, x, state, store);
    const struct canvas_mark before = canvas_mark(&c);
    canvas_own_part(&c, m, b, state, w.exception);
    (void)canvas_undo(&c, &before);
    fail_all(&c, &w, b->chain);
    if (!revoked && m->id.len) {
        errbacks = values_of(&c, &(struct value){.kind = VALUE_RAW, .raw = b->errbacks});
        canvas_call_errbacks(&c, &errbacks,
                             &(struct canvas_failed){m->id, parent.root_id, m->task, x});
    }
    return canvas_end(&c);
}

int canvas_ignored(const struct canvas_settings *s, const struct message *m,
                   const struct message_body *b, struct canvas_effects *ret)
{
    const struct canvas_parent parent = canvas_parent_of(m);
    const struct walk w = {.exception = SLICE_LIT("null"), .state = IGNORED};
    struct err e = ERR_INIT;
    struct canvas c = canvas_begin(s, &parent, ret, &e);

    if (!b || (json_is_null(b->chain) && json_is_null(b->chord)))
        return 0;
    const struct canvas_mark before = canvas_mark(&c);
    canvas_own_part(&c, m, b, IGNORED, w.exception);
    (void)canvas_undo(&c, &before);
    fail_all(&c, &w, b->chain);
    return canvas_end(&c);
}

/* ---- a chord ---- */

int canvas_fail_body(const struct canvas_settings *s, struct slice body,
                     const struct canvas_exception *x, const struct canvas_exception *cause,
                     struct slice called, const struct canvas_parent *p, struct canvas_effects *ret)
{
    struct err e = ERR_INIT;
    struct canvas c = canvas_begin(s, p, ret, &e);
    struct json_val v, options;
    struct walk w, behind;
    struct values all;

    int code = json_scan(body, &v, &e);
    if (code)
        return code == -ENOMEM ? code : 0;
    options = json_get(v, "options");
    behind = walk_of(&c, x, "FAILURE", true);
    w = canvas_is_type(v, "group") && cause ? walk_of(&c, cause, "FAILURE", true) : behind;
    w.bare = true;
    all = canvas_read_called(&c, called);
    canvas_call_body_errbacks(&c, v, canvas_is_type(v, "group") && cause ? cause : x, &all);
    w.part = canvas_mark_called(&c, w.exception, &all);
    fail_step(&c, &w, v);
    fail_all(&c, &behind, json_get(options, "chain"));
    return canvas_end(&c);
}

/* exc_message is the list of the constructor's arguments, or its only one. */
static struct slice exception_args(struct canvas *c, struct json_val v)
{
    struct buf b = BUF_INIT;

    if (v.kind == JSON_K_ARRAY)
        return v.raw;
    buf_append_char(&b, '[');
    if (v.kind != JSON_K_NONE)
        json_write_normal(&b, v);
    buf_append_char(&b, ']');
    return canvas_keep(c, &b);
}

int canvas_chord_error(struct arena *a, struct slice member,
                       struct canvas_exception *ret_chord_error, struct canvas_exception *ret_cause)
{
    static const struct canvas_settings none = {.now_us = 0};
    struct canvas_effects fx = canvas_effects_init(a);
    struct err e = ERR_INIT;
    struct canvas c = canvas_begin(&none, NULL, &fx, &e);
    struct buf text = BUF_INIT, args = BUF_INIT;
    struct json_val v, x;
    struct slice id = SLICE_NULL;

    if (json_scan(member, &v, &e) || json_len(v) != 4 || v.kind != JSON_K_ARRAY)
        return -EINVAL;
    x = json_at(v, 3);
    if (json_string(a, json_at(v, 1), &id))
        return -EINVAL;
    struct canvas_exception cause = {
        .type = canvas_text_of(&c, x, "exc_type"),
        .module = canvas_text_of(&c, x, "exc_module"),
        .args = exception_args(&c, json_get(x, "exc_message")),
    };
    buf_append_str(&text, "Dependency ");
    buf_append_slice(&text, id);
    buf_append_str(&text, " raised ");
    if (cause.type.p)
        record_write_exception_repr(&text, cause.type, cause.args);
    else
        json_write_python(&text, x);
    buf_append_char(&args, '[');
    json_write_string(&args, buf_slice(&text));
    buf_append_char(&args, ']');
    if (text.failed)
        args.failed = true;
    buf_deinit(&text);
    *ret_chord_error = (struct canvas_exception){.type = SLICE_LIT("ChordError"),
                                                 .module = SLICE_LIT("celery.exceptions"),
                                                 .args = canvas_keep(&c, &args)};
    if (!cause.type.p)
        cause = *ret_chord_error;
    *ret_cause = cause;
    return c.code;
}
