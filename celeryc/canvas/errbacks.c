/* SPDX-License-Identifier: Apache-2.0 */
/* Error callbacks: which ones a failure has, and how they are called (celery/backends/base.py _call_task_errbacks,
 * _handle_group_chord_error). Those of the new style that are registered here are called by the worker, the others are
 * sent as tasks.
 *
 * A chord in a header calls its own at once, and the chord around, which fails with it, does not call them again: Celery
 * leaves that one waiting. chord.link_error() links what it is given to the chords in the header too. The part that fails
 * the chord around says which were called, under a key of the exception that other workers do not read; when one of these
 * completes the chord, they are called for it as well.
 *
 * What must never happen: one that nobody calls, one that is called twice for one failure, or a bad one that keeps the
 * others from being called. */

#include "celeryc/canvas/canvas_priv.h"

#include "celeryc/base/limits.h"

static struct sig *read_errback(struct canvas *c, const struct value *v)
{
    const struct canvas_mark before = canvas_mark(c);
    struct sig *s = NULL;

    if (sig_of(c, v, &s))
        (void)canvas_undo(c, &before);
    return c->code ? NULL : s;
}

/* Those of the new style that are registered here are to be called; false: it is none. */
static bool call_here(struct canvas *c, const struct sig *s, const struct canvas_failed *f)
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
void canvas_call_errbacks(struct canvas *c, const struct values *errbacks,
                          const struct canvas_failed *f)
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
    const struct canvas_mark before = canvas_mark(c);
    for (size_t i = 0; i < sent.n; i++)
        sigs_add(c, all->tasks, sent.v[i]);
    (void)group_apply(c, all, &p, &o, NULL);
    if (!canvas_undo(c, &before))
        return;
    for (size_t i = 0; i < sent.n && c->code == 0; i++) { /* then each on its own */
        const struct canvas_mark each = canvas_mark(c);

        (void)sig_apply(c, sent.v[i], &p, &o, NULL);
        (void)canvas_undo(c, &each);
    }
}

/* ---- of the body of a chord ---- */

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

    while (canvas_is_type(sig, "chord") &&
           !json_is_null(json_get(json_get(sig, "kwargs"), "body"))) {
        add_distinct(c, to, json_get(json_get(sig, "options"), "link_error"));
        sig = json_get(json_get(sig, "kwargs"), "body");
    }
    add_distinct(c, to, json_get(json_get(sig, "options"), "link_error"));
    if (canvas_is_type(sig, "group")) {
        for (json_iter_init(&it, json_get(json_get(sig, "kwargs"), "tasks")); json_next(&it);)
            (void)member_errbacks(c, it.val, to);
    }
    return canvas_text_of(c, json_get(sig, "options"), "task_id");
}

/* Calls those that the chords in the header have not called, and adds them to `called`. */
static void call_others(struct canvas *c, struct values errbacks, const struct values *before,
                        const struct canvas_failed *f, struct values *called)
{
    size_t n = 0;

    for (size_t i = 0; i < errbacks.n; i++) {
        if (has_value(c, before, &errbacks.v[i]))
            continue;
        errbacks.v[n++] = errbacks.v[i];
        if (!has_value(c, called, &errbacks.v[i]))
            values_add(c, called, errbacks.v[i]);
    }
    errbacks.n = n;
    canvas_call_errbacks(c, &errbacks, f);
}

static void member_group_errbacks(struct canvas *c, struct json_val group,
                                  const struct canvas_exception *x, struct values *called)
{
    struct json_val own = json_get(json_get(group, "options"), "link_error");
    const struct values before = *called;
    struct json_iter it;

    for (json_iter_init(&it, json_get(json_get(group, "kwargs"), "tasks")); json_next(&it);) {
        struct values errbacks = {0};
        struct slice id = member_errbacks(c, it.val, &errbacks);

        add_distinct(c, &errbacks, own);
        if (id.p)
            call_others(c, errbacks, &before,
                        &(struct canvas_failed){id, id, canvas_text_of(c, it.val, "task"), x},
                        called);
    }
}

static void single_body_errbacks(struct canvas *c, struct json_val body,
                                 const struct canvas_exception *x, struct values *called)
{
    struct json_val options = json_get(body, "options");
    struct json_val list = json_get(options, "link_error");
    const struct values before = *called;
    struct slice id = canvas_text_of(c, options, "task_id");

    if (!id.p)
        id = canvas_uuid(c);
    call_others(c, values_of(c, &(struct value){.kind = VALUE_RAW, .raw = list}), &before,
                &(struct canvas_failed){id, id, canvas_text_of(c, body, "task"), x}, called);
}

void canvas_call_body_errbacks(struct canvas *c, struct json_val body,
                               const struct canvas_exception *x, struct values *called)
{
    if (canvas_is_type(body, "group"))
        member_group_errbacks(c, body, x, called);
    else
        single_body_errbacks(c, body, x, called);
}

/* ---- what was called, in a part ---- */

/* JSON in a string: whatever stands in an errback, no other worker reads it. */
struct slice canvas_mark_called(struct canvas *c, struct slice exception,
                                const struct values *called)
{
    CLEANUP(buf_deinit) struct buf list = BUF_INIT;
    struct buf b = BUF_INIT;

    if (called->n == 0 || exception.len < 2)
        return exception;
    for (size_t i = 0; i < called->n && list.len <= LIMIT_CALLED_BYTES; i++) {
        buf_append_str(&list, i ? ", " : "[");
        value_write(c, &list, &called->v[i]);
    }
    buf_append_char(&list, ']');
    if (list.len > LIMIT_CALLED_BYTES)
        return exception;
    buf_append_slice(&b, (struct slice){exception.p, exception.len - 1});
    buf_append_str(&b, ", \"" CANVAS_CALLED "\": ");
    json_write_string(&b, buf_slice(&list));
    buf_append_char(&b, '}');
    b.failed = b.failed || list.failed;
    return canvas_keep(c, &b);
}

struct values canvas_read_called(struct canvas *c, struct slice called)
{
    struct values all = {0};
    struct json_val list, v;
    struct json_iter it, each;
    struct slice text;

    if (!called.p || json_scan(called, &list, NULL))
        return all;
    for (json_iter_init(&it, list); json_next(&it);) {
        if (json_string(c->arena, it.val, &text) || json_scan(text, &v, NULL))
            continue;
        for (json_iter_init(&each, v); json_next(&each);)
            values_add(c, &all, value_raw(each.val));
    }
    return all;
}
