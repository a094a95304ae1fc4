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

/* ---- one thing at a time: what goes wrong with a signature is undone ---- */

struct mark {
    struct canvas_effects fx;
    size_t children, bytes;
};

static struct mark mark(const struct canvas *c)
{
    return (struct mark){*c->fx, c->children.len, c->bytes};
}

/* Takes back everything since the mark when that was bad. True: it was. */
static bool undo(struct canvas *c, const struct mark *m)
{
    if (c->code != CANVAS_E_BAD)
        return false;
    c->code = 0;
    *c->fx = m->fx;
    c->children.len = m->children;
    c->bytes = m->bytes;
    return true;
}

/* ---- errbacks ---- */

static struct sig *read_errback(struct canvas *c, const struct value *v)
{
    const struct mark before = mark(c);
    struct sig *s = NULL;

    if (sig_of(c, v, &s))
        (void)undo(c, &before);
    return c->code ? NULL : s;
}

/* What failed, as its errbacks are told. */
struct failed {
    struct slice id, root_id, task; /* task may have p NULL */
    const struct canvas_exception *x;
};

/* Those of the new style that are registered here are to be called; false: it is none. */
static bool call_here(struct canvas *c, const struct sig *s, const struct failed *f)
{
    struct canvas_defaults d = {0};
    struct buf b = BUF_INIT;

    if (!c->s->lookup || !c->s->lookup(c->s->arg, s->task, &d) || !d.errback)
        return false;
    sig_write(c, &b, s);
    effect_call(c, &(struct canvas_call){.errback = canvas_keep(c, &b),
                                         .task_id = f->id,
                                         .root_id = f->root_id,
                                         .task = f->task,
                                         .x = *f->x});
    return true;
}

/* All errbacks that are sent are one new group, with the id of what failed in front of their arguments. */
static void call_errbacks(struct canvas *c, const struct values *errbacks, const struct failed *f)
{
    const struct partial p = canvas_one_argument(c, canvas_text(c, f->id));
    struct sig *all = sig_new(c, SIG_GROUP, "celery.group");
    struct sigs sent = {0};
    struct options o = {0};

    if (errbacks->n == 0 || !all)
        return;
    option_set_text(c, &o, "parent_id", f->id);
    option_set_text(c, &o, "root_id", f->root_id);
    for (size_t i = 0; i < errbacks->n && c->code == 0; i++) {
        struct sig *s = read_errback(c, &errbacks->v[i]);

        if (s && !call_here(c, s, f))
            sigs_add(c, &sent, s);
    }
    if (sent.n == 0)
        return;
    const struct mark before = mark(c);
    for (size_t i = 0; i < sent.n; i++)
        sigs_add(c, all->tasks, sent.v[i]);
    (void)group_apply(c, all, &p, &o, NULL);
    if (!undo(c, &before))
        return;
    for (size_t i = 0; i < sent.n && c->code == 0; i++) { /* then each on its own */
        const struct mark each = mark(c);

        (void)sig_apply(c, sent.v[i], &p, &o, NULL);
        (void)undo(c, &each);
    }
}

/* ---- what will not run ---- */

#define IGNORED "IGNORED"

struct walk {
    struct slice exception; /* JSON */
    struct slice traceback;
    const char *state; /* FAILURE, REVOKED or IGNORED */
    bool store;
    bool bare; /* records without a word on the task: what Celery writes for the body of a chord */
};

static struct slice text_of(struct canvas *c, struct json_val object, const char *key)
{
    struct json_val v = json_get(object, key);
    struct slice s = SLICE_NULL;

    if (v.kind == JSON_K_STRING && json_string(c->arena, v, &s))
        (void)canvas_fail(c, -ENOMEM);
    return s.len ? s : SLICE_NULL;
}

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
        .group_id = text_of(c, options, "group_id"),
        .parent_id = text_of(c, options, "parent_id"),
        .task_id = id,
        .extended = c->s->result_extended,
        .name = text_of(c, sig, "task"),
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
    struct slice group_id = text_of(c, options, "group_id");

    if (chord.kind != JSON_K_OBJECT || !group_id.p || !id.p)
        return;
    effect_part(c, (struct canvas_part){.group_id = group_id,
                                        .task_id = id,
                                        .score = canvas_score(json_get(options, "group_index")),
                                        .member = canvas_member(c, id, w->state, w->exception),
                                        .body = chord.raw,
                                        .failed = !str_eq(w->state, IGNORED)});
}

static bool is_type(struct json_val sig, const char *type)
{
    struct json_val v = json_get(sig, "subtask_type");

    return v.kind == JSON_K_STRING && v.raw.len == strlen(type) + 2 &&
           memcmp(v.raw.p + 1, type, v.raw.len - 2) == 0;
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
    struct slice id = text_of(c, options, "task_id");
    bool group = is_type(sig, "group"), chain = is_type(sig, "chain");
    const struct mark before = mark(c);

    if (w->store && id.p && !chain)
        fail_record(c, w, sig, id);
    if (!group && !chain)
        fail_part(c, w, options, id);
    (void)undo(c, &before);
    if (group || chain)
        fail_all(c, w, json_get(kwargs, "tasks"));
    if (is_type(sig, "chord"))
        fail_step(c, w, json_get(kwargs, "body"));
}

/* ---- a task ---- */

static struct walk walk_of(struct canvas *c, const struct canvas_exception *x, const char *state,
                           bool store)
{
    struct buf b = BUF_INIT;

    record_write_exception(&b, x->type, x->args, x->module);
    return (struct walk){canvas_keep(c, &b), x->traceback, state, store, false};
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
    const struct mark before = mark(&c);
    canvas_own_part(&c, m, b, state, w.exception);
    (void)undo(&c, &before);
    fail_all(&c, &w, b->chain);
    if (!revoked && m->id.len) {
        errbacks = values_of(&c, &(struct value){.kind = VALUE_RAW, .raw = b->errbacks});
        call_errbacks(&c, &errbacks, &(struct failed){m->id, parent.root_id, m->task, x});
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
    const struct mark before = mark(&c);
    canvas_own_part(&c, m, b, IGNORED, w.exception);
    (void)undo(&c, &before);
    fail_all(&c, &w, b->chain);
    return canvas_end(&c);
}

/* ---- a chord ---- */

static bool has_value(struct canvas *c, const struct values *list, const struct value *v)
{
    for (size_t i = 0; i < list->n; i++)
        if (value_equal(c, &list->v[i], v))
            return true;
    return false;
}

/* dict's `not in`, for the errbacks that a member and its group share. */
static void add_distinct(struct canvas *c, struct values *to, struct json_val list)
{
    struct values more = values_of(c, &(struct value){.kind = VALUE_RAW, .raw = list});

    for (size_t i = 0; i < more.n; i++)
        if (!has_value(c, to, &more.v[i]))
            values_add(c, to, more.v[i]);
}

/* The errbacks of a member of a group body, and the id under which its result is awaited: a chord's are its body's. */
static struct slice member_errbacks(struct canvas *c, struct json_val sig, struct values *to)
{
    struct json_iter it;

    while (is_type(sig, "chord") && !json_is_null(json_get(json_get(sig, "kwargs"), "body"))) {
        add_distinct(c, to, json_get(json_get(sig, "options"), "link_error"));
        sig = json_get(json_get(sig, "kwargs"), "body");
    }
    add_distinct(c, to, json_get(json_get(sig, "options"), "link_error"));
    if (is_type(sig, "group")) {
        for (json_iter_init(&it, json_get(json_get(sig, "kwargs"), "tasks")); json_next(&it);)
            (void)member_errbacks(c, it.val, to);
    }
    return text_of(c, json_get(sig, "options"), "task_id");
}

/* Drops the errbacks that the chord around calls too: it fails with its member, and chord.link_error() links what it is
 * given to the chords in the header and to the body. Celery calls them here and leaves the chord around waiting. */
static void leave_to_outer(struct canvas *c, struct values *errbacks, struct json_val options)
{
    struct json_val outer = json_get(options, "chord");
    struct values later = {0};
    size_t n = 0;

    if (!text_of(c, options, "task_id").p || !text_of(c, options, "group_id").p)
        return; /* has no part in it */
    for (int depth = 0; outer.kind == JSON_K_OBJECT && depth < LIMIT_JSON_DEPTH; depth++) {
        (void)member_errbacks(c, outer, &later);
        outer = json_get(json_get(outer, "options"), "chord");
    }
    for (size_t i = 0; i < errbacks->n; i++)
        if (!has_value(c, &later, &errbacks->v[i]))
            errbacks->v[n++] = errbacks->v[i];
    errbacks->n = n;
}

static void call_member_errbacks(struct canvas *c, struct json_val group,
                                 const struct canvas_exception *x)
{
    struct json_val own = json_get(json_get(group, "options"), "link_error");
    struct json_iter it;

    for (json_iter_init(&it, json_get(json_get(group, "kwargs"), "tasks")); json_next(&it);) {
        struct values errbacks = {0};
        struct slice id = member_errbacks(c, it.val, &errbacks);

        add_distinct(c, &errbacks, own);
        leave_to_outer(c, &errbacks, json_get(it.val, "options"));
        if (id.p)
            call_errbacks(c, &errbacks, &(struct failed){id, id, text_of(c, it.val, "task"), x});
    }
}

static void call_body_errbacks(struct canvas *c, struct json_val body,
                               const struct canvas_exception *x)
{
    struct json_val options = json_get(body, "options");
    struct json_val list = json_get(options, "link_error");
    struct values errbacks = values_of(c, &(struct value){.kind = VALUE_RAW, .raw = list});
    struct slice id = text_of(c, options, "task_id");

    leave_to_outer(c, &errbacks, options);
    if (!id.p)
        id = canvas_uuid(c);
    call_errbacks(c, &errbacks, &(struct failed){id, id, text_of(c, body, "task"), x});
}

int canvas_fail_body(const struct canvas_settings *s, struct slice body,
                     const struct canvas_exception *x, const struct canvas_exception *cause,
                     const struct canvas_parent *p, struct canvas_effects *ret)
{
    struct err e = ERR_INIT;
    struct canvas c = canvas_begin(s, p, ret, &e);
    struct json_val v, options;
    struct walk w, behind;

    int code = json_scan(body, &v, &e);
    if (code)
        return code == -ENOMEM ? code : 0;
    options = json_get(v, "options");
    behind = walk_of(&c, x, "FAILURE", true);
    w = is_type(v, "group") && cause ? walk_of(&c, cause, "FAILURE", true) : behind;
    w.bare = true;
    if (is_type(v, "group"))
        call_member_errbacks(&c, v, cause ? cause : x);
    else
        call_body_errbacks(&c, v, x);
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
        .type = text_of(&c, x, "exc_type"),
        .module = text_of(&c, x, "exc_module"),
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
