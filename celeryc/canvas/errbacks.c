/* SPDX-License-Identifier: Apache-2.0 */
/* Error callbacks: which ones a failure has, and how they are called (celery/backends/base.py _call_task_errbacks,
 * _handle_group_chord_error). Those of the new style that are registered here are called by the worker, the others are
 * sent as tasks.
 *
 * What must never happen: one that is called twice for one failure, or a bad one that keeps the others from being
 * called. */

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

/* The errbacks that a chord calls when it fails: those of its body, of a group those of each member. */
static void body_errbacks(struct canvas *c, struct json_val body, struct values *to)
{
    struct json_iter it;

    add_distinct(c, to, json_get(json_get(body, "options"), "link_error"));
    if (!canvas_is_type(body, "group"))
        return;
    for (json_iter_init(&it, json_get(json_get(body, "kwargs"), "tasks")); json_next(&it);)
        (void)member_errbacks(c, it.val, to);
}

/* Drops the errbacks that the chord around calls too: it fails with its member, and chord.link_error() links what it is
 * given to the chords in the header and to the body. Celery calls them here and leaves the chord around waiting. */
static void leave_to_outer(struct canvas *c, struct values *errbacks, struct json_val options)
{
    struct json_val outer = json_get(options, "chord");
    struct values later = {0};
    size_t n = 0;

    if (!canvas_text_of(c, options, "task_id").p || !canvas_text_of(c, options, "group_id").p)
        return; /* has no part in it */
    for (int depth = 0; outer.kind == JSON_K_OBJECT && depth < LIMIT_JSON_DEPTH; depth++) {
        body_errbacks(c, outer, &later);
        outer = json_get(json_get(outer, "options"), "chord");
    }
    for (size_t i = 0; i < errbacks->n; i++)
        if (!has_value(c, &later, &errbacks->v[i]))
            errbacks->v[n++] = errbacks->v[i];
    errbacks->n = n;
}

static void member_group_errbacks(struct canvas *c, struct json_val group,
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
            canvas_call_errbacks(
                c, &errbacks,
                &(struct canvas_failed){id, id, canvas_text_of(c, it.val, "task"), x});
    }
}

static void single_body_errbacks(struct canvas *c, struct json_val body,
                                 const struct canvas_exception *x)
{
    struct json_val options = json_get(body, "options");
    struct json_val list = json_get(options, "link_error");
    struct values errbacks = values_of(c, &(struct value){.kind = VALUE_RAW, .raw = list});
    struct slice id = canvas_text_of(c, options, "task_id");

    leave_to_outer(c, &errbacks, options);
    if (!id.p)
        id = canvas_uuid(c);
    canvas_call_errbacks(c, &errbacks,
                         &(struct canvas_failed){id, id, canvas_text_of(c, body, "task"), x});
}

void canvas_call_body_errbacks(struct canvas *c, struct json_val body,
                               const struct canvas_exception *x)
{
    if (canvas_is_type(body, "group"))
        member_group_errbacks(c, body, x);
    else
        single_body_errbacks(c, body, x);
}
