/* SPDX-License-Identifier: Apache-2.0 */
/* A task that puts a signature in its own place (celery/app/task.py replace), and one that adds a member to its chord.
 *
 * The replacement takes the task's id, links, group, chord and the rest of its chain, so that whoever waits for the task
 * waits for the replacement. */

#include "celeryc/canvas/canvas_priv.h"

#include <errno.h>

/* ---- composing: what Python's `|` does ---- */

static struct sig *last_of(const struct sig *chain)
{
    return chain->tasks->v[chain->tasks->n - 1];
}

static struct sig *make_chord(struct canvas *c, const struct sig *group, struct sig *body)
{
    struct sig *chord = sig_new(c, SIG_CHORD, "celery.chord");

    if (!chord || !body)
        return NULL;
    chord->tasks = sigs_copy(c, group->tasks);
    chord->body = body;
    return chord->tasks ? chord : NULL;
}

/* The results of a group are reached through a body, on which links can stand. */
static struct sig *with_accumulate(struct canvas *c, const struct sig *group)
{
    struct sig *body = sig_new(c, SIG_TASK, "celery.accumulate");

    if (!body)
        return NULL;
    body->kwargs = (struct json_val){JSON_K_OBJECT, SLICE_LIT("{\"index\": 0}")};
    return make_chord(c, group, body);
}

/* The steps of a chain, its links on the last and its errbacks on each. */
static const struct sigs *unchain(struct canvas *c, struct sig *chain)
{
    struct values links = values_of(c, option_get(&chain->options, "link"));
    struct values errbacks = values_of(c, option_get(&chain->options, "link_error"));
    struct sigs *l = chain->tasks;

    for (size_t i = 0; i < links.n && l->n > 0; i++)
        sig_link(c, l->v[l->n - 1], links.v[i]);
    for (size_t i = 0; i < errbacks.n; i++) {
        for (size_t k = 0; k < l->n; k++)
            sig_link_error(c, l->v[k], errbacks.v[i]);
    }
    return l;
}

static void add_steps(struct canvas *c, struct sig *chain, struct sig *s)
{
    const struct sigs *l;

    if (s->type != SIG_CHAIN) {
        sigs_add(c, chain->tasks, s);
        return;
    }
    l = unchain(c, s);
    for (size_t i = 0; i < l->n; i++)
        sigs_add(c, chain->tasks, l->v[i]);
}

/* A new chain of the steps of both; options of an old chain do not survive. right may be NULL. */
static struct sig *make_chain(struct canvas *c, struct sig *left, struct sig *right)
{
    struct sig *chain = sig_new(c, SIG_CHAIN, "celery.chain");

    if (!chain)
        return NULL;
    add_steps(c, chain, left);
    if (right)
        add_steps(c, chain, right);
    return chain;
}

/* chain | group */
static struct sig *pipe_group(struct canvas *c, struct sig *chain, struct sig *group)
{
    if (chain->tasks->n == 0)
        return group;
    if (last_of(chain)->type != SIG_CHORD)
        return make_chain(c, chain, group);
    chain = make_chain(c, chain, NULL);
    if (chain)
        last_of(chain)->body = sig_pipe(c, last_of(chain)->body, group);
    return chain;
}

/* chain | task, chain | chord */
static struct sig *pipe_chain(struct canvas *c, struct sig *chain, struct sig *right)
{
    struct sigs *l = chain->tasks;
    struct sig *last = l->n ? last_of(chain) : NULL;

    if (last && last->type == SIG_GROUP) {
        struct sig *chord = make_chord(c, last, right);

        if (!chord)
            return NULL;
        l->v[l->n - 1] = chord;
        if (l->n > 1 && l->v[l->n - 2]->type == SIG_CHORD) {
            l->v[l->n - 2]->body = sig_pipe(c, l->v[l->n - 2]->body, chord);
            l->n--;
        }
        return chain;
    }
    if (last && last->type == SIG_CHORD && right->type != SIG_CHORD) {
        last->body = sig_pipe(c, last->body, right);
        return chain;
    }
    return make_chain(c, chain, right);
}

static struct sig *pipe_each(struct canvas *c, struct sig *left, struct sig *chain)
{
    const struct sigs *l = unchain(c, chain);

    for (size_t i = 0; i < l->n; i++)
        left = sig_pipe(c, left, l->v[i]);
    return left;
}

struct sig *sig_pipe(struct canvas *c, struct sig *left, struct sig *right)
{
    if (!left || !right || c->code)
        return NULL;
    if (left->type == SIG_GROUP)
        return sig_is_empty_group(right) ? left : make_chord(c, left, right);
    if (left->type == SIG_CHAIN && sig_is_empty_group(right))
        return left;
    if (right->type == SIG_GROUP && right->tasks->n == 1)
        return sig_pipe(c, left, right->tasks->v[0]);
    if (left->type == SIG_CHAIN && right->type == SIG_GROUP)
        return pipe_group(c, left, right);
    if (left->type == SIG_CHAIN && right->type == SIG_CHAIN)
        return pipe_each(c, left, right);
    if (left->type == SIG_CHAIN)
        return pipe_chain(c, left, right);
    if (left->type == SIG_CHORD && right->type != SIG_GROUP && right->type != SIG_CHAIN) {
        left->body = sig_pipe(c, left->body, right);
        return left;
    }
    return make_chain(c, left, right);
}

/* ---- replace ---- */

static void take_links(struct canvas *c, struct sig *s, const struct message_body *b)
{
    struct values links = values_of(c, &(struct value){.kind = VALUE_RAW, .raw = b->callbacks});
    struct values errors = values_of(c, &(struct value){.kind = VALUE_RAW, .raw = b->errbacks});
    struct value moved;

    for (size_t i = 0; i < links.n; i++)
        sig_link(c, s, links.v[i]);
    for (size_t i = 0; i < errors.n; i++)
        sig_link_error(c, s, errors.v[i]);
    if (s->type == SIG_CHAIN && option_pop(&s->options, "link", &moved))
        option_extend(c, &last_of(s)->options, "link", moved);
}

static struct value or_null(struct json_val v)
{
    return json_is_null(v) ? VALUE_NULL : value_raw(v);
}

/* The last step of a chain that is the body of a chord was given the chord's own group. It is a member of the task's, or
 * its part would be counted where nobody waits for it. (Celery leaves it so, and the chord around the task waits.) */
static void join_group(struct canvas *c, struct sig *s, const struct message *m)
{
    bool in_body = false, last_step = false;

    while (m->group.len &&
           ((s->type == SIG_CHAIN && s->tasks->n > 0) || (s->type == SIG_CHORD && s->body))) {
        last_step = last_step || (in_body && s->type == SIG_CHAIN);
        in_body = in_body || s->type == SIG_CHORD;
        s = s->type == SIG_CHAIN ? last_of(s) : s->body;
        if (last_step)
            option_set_text(c, &s->options, "group_id", m->group);
    }
}

static void take_place(struct canvas *c, struct sig *s, const struct message *m,
                       const struct message_body *b, struct value nesting)
{
    option_set(c, &s->options, "chord", or_null(b->chord));
    option_set_text(c, &s->options, "group_id", m->group.len ? m->group : SLICE_NULL);
    option_set(c, &s->options, "group_index", or_null(m->group_index));
    option_set_text(c, &s->options, "root_id", m->root_id.len ? m->root_id : SLICE_NULL);
    option_set(c, &s->options, "replaced_task_nesting", nesting);
    for (size_t i = 0; s->type == SIG_CHAIN && i < s->tasks->n; i++)
        option_set(c, &s->tasks->v[i]->options, "replaced_task_nesting", nesting);
}

/* The task's own remaining steps, next one first. */
static struct sig *append_rest(struct canvas *c, struct sig *s, struct json_val chain,
                               struct value nesting)
{
    struct values l = values_of(c, &(struct value){.kind = VALUE_RAW, .raw = chain});

    for (size_t i = l.n; i > 0 && s && c->code == 0; i--) {
        struct sig *step;

        if (sig_of(c, &l.v[i - 1], &step))
            return NULL;
        option_set(c, &step->options, "replaced_task_nesting", nesting);
        s = sig_pipe(c, s, step);
    }
    return s;
}

/* What ends in a group, at the end of a chain or as the body of a chord, ends in the list of its results instead: a group
 * has no record that could stand under the task's id. (Celery forgets it behind a chord, and the task never ends.) */
static struct sig *end_in_task(struct canvas *c, struct sig *s)
{
    if (!s || c->code)
        return NULL;
    if (s->type == SIG_GROUP)
        return with_accumulate(c, s);
    if (s->type == SIG_CHAIN && s->tasks->n > 0)
        s->tasks->v[s->tasks->n - 1] = end_in_task(c, last_of(s));
    if (s->type == SIG_CHORD && s->body)
        s->body = end_in_task(c, s->body);
    return c->code ? NULL : s;
}

static struct sig *replacement(struct canvas *c, struct slice signature)
{
    struct sig *s;

    if (sig_read_text(c, signature, &s))
        return NULL;
    if (option_get(&s->options, "chord")) {
        (void)err_set(c->e, CANVAS_E_REFUSED,
                      "A signature replacing a task must not be part of a chord");
        (void)canvas_fail(c, CANVAS_E_REFUSED);
    }
    if (sig_is_empty_chain(s)) {
        (void)err_set(c->e, CANVAS_E_REFUSED, "Cannot replace with an empty chain");
        (void)canvas_fail(c, CANVAS_E_REFUSED);
    }
    return end_in_task(c, s);
}

int canvas_replace(const struct canvas_settings *s, const struct message *m,
                   const struct message_body *b, struct slice signature, struct canvas_effects *ret,
                   struct err *e)
{
    const struct canvas_parent parent = canvas_parent_of(m);
    struct canvas c = canvas_begin(s, &parent, ret, e);
    const struct freeze f = {.id = m->id};
    struct sig *sig = replacement(&c, signature);
    struct value nesting =
        value_raw(canvas_index(&c, (size_t)MAX(m->replaced_task_nesting, 0) + 1));
    struct result *r;

    if (!sig || c.code)
        return canvas_end(&c);
    take_links(&c, sig, b);
    if (c.code == 0)
        (void)sig_freeze(&c, sig, &f, &r);
    if (c.code)
        return canvas_end(&c);
    take_place(&c, sig, m, b, nesting);
    join_group(&c, sig, m);
    sig = append_rest(&c, sig, b->chain, nesting);
    if (sig && c.code == 0)
        (void)sig_apply(&c, sig, NULL, NULL, NULL);
    return canvas_end(&c);
}

int canvas_add_to_chord(const struct canvas_settings *s, const struct message *m,
                        const struct message_body *b, struct slice signature,
                        struct canvas_effects *ret, struct err *e)
{
    const struct canvas_parent parent = canvas_parent_of(m);
    struct canvas c = canvas_begin(s, &parent, ret, e);
    const struct freeze f = {.id = SLICE_NULL};
    struct result *r;
    struct sig *sig;

    if (!b || b->chord.kind != JSON_K_OBJECT || !m->group.len) {
        (void)err_set(e, CANVAS_E_BAD, "Current task is not member of any chord");
        return CANVAS_E_BAD;
    }
    if (sig_read_text(&c, signature, &sig))
        return canvas_end(&c);
    option_set_text(&c, &sig->options, "group_id", m->group);
    option_set(&c, &sig->options, "group_index", or_null(m->group_index));
    option_set(&c, &sig->options, "chord", value_raw(b->chord));
    option_set_text(&c, &sig->options, "root_id", m->root_id.len ? m->root_id : SLICE_NULL);
    if (sig_freeze(&c, sig, &f, &r) == 0) {
        effect_add(&c, m->group);
        (void)sig_apply(&c, sig, NULL, NULL, NULL);
    }
    return canvas_end(&c);
}
