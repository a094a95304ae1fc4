/* SPDX-License-Identifier: Apache-2.0 */
/* Freezing: every part of a signature gets its id, its group and its chord, in place; what comes back are the ids that
 * a reader of results follows. An id, group or index that is there already stays, as in Celery. */

#include "celeryc/canvas/canvas_priv.h"

#include <errno.h>

/* ---- result trees ---- */

struct result *result_new(struct canvas *c, struct slice id, bool group)
{
    struct result *r = canvas_alloc(c, sizeof(*r));

    if (r)
        *r = (struct result){.id = id, .group = group};
    return r;
}

void result_add(struct canvas *c, struct result *r, struct result *member)
{
    if (canvas_grow(c, &r->v, r->n, &r->cap, sizeof(struct result *)))
        r->v[r->n++] = member;
}

/* Parents are as many as a chain has steps, so they are not walked by recursion; groups nest as JSON does. */
void result_write(struct buf *dst, const struct result *r)
{
    CLEANUP(buf_deinit) struct buf path = BUF_INIT;

    for (const struct result *at = r; at; at = at->parent) {
        buf_append_str(dst, "[[");
        json_write_string(dst, at->id);
        buf_append_str(dst, ", ");
        buf_append(&path, &at, sizeof(struct result *));
    }
    buf_append_str(dst, "null");
    if (path.failed)
        dst->failed = true;
    for (size_t left = path.len; left > 0 && !dst->failed; left -= sizeof(struct result *)) {
        const struct result *at;

        memcpy(&at, path.data + left - sizeof(struct result *), sizeof(struct result *));
        buf_append_str(dst, at->group ? "], [" : "], null");
        for (size_t i = 0; i < at->n; i++) {
            buf_append_str(dst, i ? ", " : "");
            result_write(dst, at->v[i]);
        }
        buf_append_str(dst, at->group ? "]]" : "]");
    }
}

/* ---- freezing ---- */

static void set_membership(struct canvas *c, struct options *o, const struct freeze *f)
{
    if (f->chord)
        option_set(c, o, "chord", *f->chord);
    if (f->group_index.kind != JSON_K_NONE)
        option_set(c, o, "group_index", value_raw(f->group_index));
}

static int freeze_task(struct canvas *c, struct sig *s, const struct freeze *f,
                       struct result **ret_r)
{
    struct options *o = &s->options;
    struct slice id = option_text(c, o, "task_id");

    if (!id.p) {
        id = f->id.p ? f->id : canvas_uuid(c);
        option_set_text(c, o, "task_id", id);
    }
    if (f->root_id.p)
        option_set_text(c, o, "root_id", f->root_id);
    if (f->parent_id.p)
        option_set_text(c, o, "parent_id", f->parent_id);
    if (f->group_id.p && !option_get(o, "group_id"))
        option_set_text(c, o, "group_id", f->group_id);
    set_membership(c, o, f);
    *ret_r = result_new(c, id, false);
    return c->code;
}

/* The members of nested groups take the place of the group, each nested list turned round (as Celery's deque does it:
 * results come in that order). Empty chains are dropped. */
static int flatten(struct canvas *c, const struct sigs *tasks, struct sigs *ret_flat)
{
    struct sigs stack = {0};

    for (size_t i = tasks->n; i > 0; i--)
        sigs_add(c, &stack, tasks->v[i - 1]);
    while (stack.n > 0 && c->code == 0) {
        struct sig *s = stack.v[--stack.n];

        if (s->type == SIG_GROUP) {
            for (size_t i = 0; i < s->tasks->n; i++)
                sigs_add(c, &stack, s->tasks->v[i]);
        } else if (!sig_is_empty_chain(s)) {
            sigs_add(c, ret_flat, s);
        }
    }
    return c->code;
}

/* options.setdefault: a null is kept as well, as Celery writes it. */
static struct slice default_text(struct canvas *c, struct options *o, const char *key,
                                 struct slice text)
{
    if (option_get(o, key))
        return option_text(c, o, key);
    option_set_text(c, o, key, text);
    return text;
}

int group_freeze_members(struct canvas *c, struct sig *s, const struct freeze *f,
                         struct result **ret_r)
{
    struct options *o = &s->options;
    struct slice gid = option_text(c, o, "task_id");
    struct sigs flat = {0};
    struct result *r;

    if (!gid.p) {
        gid = canvas_uuid(c);
        option_set_text(c, o, "task_id", gid);
    }
    if (f->group_id.p)
        option_set_text(c, o, "group_id", f->group_id);
    set_membership(c, o, f);
    struct freeze member = {.group_id = f->group_id, .chord = f->chord};
    member.root_id = default_text(c, o, "root_id", f->root_id);
    member.parent_id = default_text(c, o, "parent_id", f->parent_id);
    r = result_new(c, gid, true);
    if (!r || flatten(c, s->tasks, &flat))
        return c->code;
    for (size_t i = 0; i < flat.n; i++) {
        struct result *one = NULL;

        member.group_index = canvas_index(c, i);
        flat.v[i] = sig_clone(c, flat.v[i]);
        if (!flat.v[i])
            return c->code;
        if (sig_freeze(c, flat.v[i], &member, &one))
            return c->code;
        result_add(c, r, one);
    }
    *s->tasks = flat;
    *ret_r = r;
    return c->code;
}

/* The header's result is the parent of whatever the body does first. */
static int freeze_chord(struct canvas *c, struct sig *s, const struct freeze *f,
                        struct result **ret_r)
{
    const struct value body = value_sig(s->body);
    struct freeze header = {.parent_id = f->parent_id, .root_id = f->root_id};
    struct freeze after = {.id = f->id,
                           .root_id = f->root_id,
                           .chord = f->chord,
                           .group_id = f->group_id,
                           .group_index = f->group_index};
    struct result *group = NULL, *node;

    if (!s->body)
        return canvas_bad(c, "a chord without a body");
    if (!s->header) {
        s->header = sig_new(c, SIG_GROUP, "celery.group");
        if (!s->header)
            return c->code;
        s->header->tasks = s->tasks;
    }
    header.chord = &body;
    if (group_freeze_members(c, s->header, &header, &group) || !group)
        return c->code;
    option_set_text(c, &s->options, "task_id", group->id);
    if (sig_freeze(c, s->body, &after, ret_r) || !*ret_r)
        return c->code;
    for (node = *ret_r; node->parent; node = node->parent)
        ;
    node->parent = group;
    return 0;
}

static int freeze_chain(struct canvas *c, struct sig *s, const struct freeze *f,
                        struct result **ret_r)
{
    const struct steps o = {.root_id = f->root_id,
                            .last_id = f->id,
                            .group_id = f->group_id,
                            .chord = f->chord,
                            .group_index = f->group_index};
    struct sigs tasks = {0};
    struct result *last = NULL;

    if (chain_prepare(c, s->tasks, &o, &tasks, &last))
        return c->code;
    if (!last)
        return canvas_bad(c, "an empty chain");
    option_set_text(c, &s->options, "task_id", last->id);
    *ret_r = last;
    return c->code;
}

int sig_freeze(struct canvas *c, struct sig *s, const struct freeze *f, struct result **ret_r)
{
    switch (s->type) {
    case SIG_CHAIN:
        return freeze_chain(c, s, f, ret_r);
    case SIG_GROUP:
        return group_freeze_members(c, s, f, ret_r);
    case SIG_CHORD:
        return freeze_chord(c, s, f, ret_r);
    case SIG_TASK:
    case SIG_CHUNKS:
        break;
    }
    return freeze_task(c, s, f, ret_r);
}
