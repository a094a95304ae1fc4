/* SPDX-License-Identifier: Apache-2.0 */
/* Groups, the sizes of chords, and the dispatch on a signature's type. */

#include "celeryc/canvas/canvas_priv.h"

#include "celeryc/base/num.h"

#include <errno.h>

/* How many parts a signature will give to the chord around it: a task one, a group those of its members, a chain those
 * of its last step that has any, a chord those of its body. */
static int64_t count_parts(const struct sig *s)
{
    int64_t n = 0;

    switch (s->type) {
    case SIG_GROUP:
        for (size_t i = 0; i < s->tasks->n; i++)
            n += count_parts(s->tasks->v[i]);
        return n;
    case SIG_CHAIN:
        for (size_t i = s->tasks->n; i > 0 && n == 0; i--)
            n = count_parts(s->tasks->v[i - 1]);
        return n;
    case SIG_CHORD:
        return s->body ? count_parts(s->body) : 0;
    case SIG_TASK:
    case SIG_CHUNKS:
        break;
    }
    return 1;
}

/* Gives ids to the members, groups inside groups taken apart. Indexes count within each list, so they repeat. */
static int prepare_members(struct canvas *c, const struct sigs *tasks, struct slice group_id,
                           struct slice root_id, struct sigs *ret_members, struct result *ret_r)
{
    for (size_t i = 0; i < tasks->n; i++) {
        struct sig *s = sig_clone(c, tasks->v[i]);
        struct freeze f = {.group_id = group_id, .root_id = root_id};
        struct result *one;

        if (!s)
            return c->code;
        if (s->type == SIG_GROUP) {
            if (prepare_members(c, s->tasks, group_id, root_id, ret_members, ret_r))
                return c->code;
            continue;
        }
        if (sig_is_empty_chain(s))
            continue;
        f.group_index = canvas_index(c, i);
        if (sig_freeze(c, s, &f, &one))
            return c->code;
        sigs_add(c, ret_members, s);
        result_add(c, ret_r, one);
    }
    return c->code;
}

/* Sends the members. The chord is theirs by the call, or each has its own; then it is opened before the last one. */
static int send_members(struct canvas *c, const struct sigs *members, struct slice group_id,
                        const struct partial *partial, const struct value *chord,
                        struct options *options)
{
    int64_t size = 0;

    option_set(c, options, "add_to_parent", VALUE_FALSE);
    for (size_t i = 0; i < members->n && c->code == 0; i++) {
        struct sig *s = members->v[i];
        const struct value *own = value_is_null(chord) ? option_get(&s->options, "chord") : chord;
        struct options o = options_copy(c, options);

        size += count_parts(s);
        option_set(c, &o, "chord", value_is_null(own) ? VALUE_NULL : *own);
        if (!value_is_null(own) && i + 1 == members->n)
            effect_start(c, (struct canvas_start){.group_id = group_id, .size = size});
        (void)sig_apply(c, s, partial, &o, NULL);
    }
    return c->code;
}

static bool is_false(const struct value *v)
{
    return !value_is_null(v) && v->kind == VALUE_RAW && v->raw.kind == JSON_K_FALSE;
}

int group_apply(struct canvas *c, struct sig *s, const struct partial *partial,
                const struct options *options, struct result **ret_r)
{
    struct options o = options_merge(c, &s->options, options);
    struct value chord = VALUE_NULL, add = VALUE_TRUE;
    struct slice group_id = option_text(c, &o, "task_id");
    struct sigs members = {0};
    struct result *r;

    ASSERT(s);
    if (options && (!value_is_null(option_get(options, "link")) ||
                    !value_is_null(option_get(options, "link_error"))))
        return canvas_bad(c, "a group takes no link: use a chord, or link its members");
    if (!group_id.p)
        group_id = canvas_uuid(c);
    r = result_new(c, group_id, true);
    if (!r || s->tasks->n == 0) {
        if (ret_r)
            *ret_r = r;
        return c->code;
    }
    option_remove(&o, "task_id");
    option_remove(&o, "group_index");
    (void)option_pop(&o, "chord", &chord);
    (void)option_pop(&o, "add_to_parent", &add);
    option_set_text(c, &o, "group_id", group_id);
    if (prepare_members(c, s->tasks, group_id, option_text(c, &o, "root_id"), &members, r) ||
        send_members(c, &members, group_id, partial, &chord, &o))
        return c->code;
    if (r->n == 1 && r->v[0]->group) /* group(a | group(b, c)) results in the inner group */
        r = r->v[0];
    if (!is_false(&add))
        effect_child(c, r);
    if (ret_r)
        *ret_r = r;
    return c->code;
}

/* ---- chunks: a group of starmaps ---- */

static struct sig *make_chunk(struct canvas *c, struct json_val task, struct json_iter *it,
                              int64_t n, bool *ret_any)
{
    struct sig *s = sig_new(c, SIG_TASK, "celery.starmap");
    struct buf b = BUF_INIT;
    int64_t i = 0;

    buf_append_str(&b, "{\"task\": ");
    json_write_normal(&b, task);
    buf_append_str(&b, ", \"it\": [");
    for (; i < n && json_next(it); i++) {
        buf_append_str(&b, i ? ", " : "");
        json_write_normal(&b, it->val);
    }
    buf_append_str(&b, "]}");
    *ret_any = i > 0;
    if (s) {
        s->kwargs = (struct json_val){JSON_K_OBJECT, canvas_keep(c, &b)};
        s->immutable = true;
    }
    buf_deinit(&b);
    return s;
}

static int chunks_apply(struct canvas *c, struct sig *s, const struct options *options,
                        struct result **ret_r)
{
    struct json_val task = json_get(s->kwargs, "task"), list = json_get(s->kwargs, "it");
    struct sig *group = sig_new(c, SIG_GROUP, "celery.group");
    struct json_iter it;
    int64_t n;
    bool any = true;

    if (json_i64(json_get(s->kwargs, "n"), &n) || n < 1 || task.kind != JSON_K_OBJECT ||
        list.kind != JSON_K_ARRAY)
        return canvas_bad(c, "chunks need task, it and n");
    for (json_iter_init(&it, list); any && group && c->code == 0;) {
        struct sig *chunk = make_chunk(c, task, &it, n, &any);

        if (any && chunk)
            sigs_add(c, group->tasks, chunk);
    }
    return c->code ? c->code : group_apply(c, group, NULL, options, ret_r);
}

/* ---- any signature ---- */

int sig_apply(struct canvas *c, struct sig *s, const struct partial *partial,
              const struct options *options, struct result **ret_r)
{
    struct options call, merged;

    if (c->code)
        return c->code;
    switch (s->type) {
    case SIG_CHAIN:
        return chain_apply(c, s, partial, options, ret_r);
    case SIG_GROUP:
        return group_apply(c, s, partial, options, ret_r);
    case SIG_CHORD:
        return chord_apply(c, s, partial, options, ret_r);
    case SIG_CHUNKS:
        return chunks_apply(c, s, options, ret_r);
    case SIG_TASK:
        break;
    }
    call = options_copy(c, options);
    options_drop_nulls(&call);
    merged = options_merge(c, &s->options, &call);
    return task_send(c, s, partial, &merged, ret_r);
}
