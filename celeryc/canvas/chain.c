/* SPDX-License-Identifier: Apache-2.0 */
/* Chains: nested ones are spliced, a group before another step becomes a chord, and what is left is a list of steps,
 * last first, as the chain field of a message holds it (celery/canvas.py prepare_steps, run).
 *
 * The order of these rules decides who gets which id, argument and errback; it is Celery's. */

#include "celeryc/canvas/canvas_priv.h"

#include <errno.h>
#include <string.h>

/* ---- rules on single steps ---- */

static struct sig *unroll_group(struct sig *s)
{
    return s->type == SIG_GROUP && s->tasks->n == 1 ? s->tasks->v[0] : s;
}

static bool led_by_task(const struct sig *s)
{
    return s && s->type == SIG_CHAIN && s->tasks->n > 0 && s->tasks->v[0]->type != SIG_GROUP;
}

/* What a chain gives to its first step, rather than using it up itself. */
static struct options first_step_options(struct canvas *c, const struct sig *chain)
{
    static const char *const used[] = {"chord",      "group_id",  "group_index", "link",
                                       "link_error", "parent_id", "root_id",     "task_id"};
    struct options o = options_copy(c, &chain->options);

    for (size_t i = 0; i < ARRAY_SIZE(used); i++)
        option_remove(&o, used[i]);
    return o;
}

/* chord(header, chain(a, b, c)) is sent as chord(header, a), b, c: else every member of the header would carry the
 * whole rest. The chain's links go to its last step, its errbacks to each. */
static void unroll_body(struct canvas *c, const struct sig *whole, struct sigs *ret_steps)
{
    struct sig *chord = sig_clone(c, whole);
    struct sig *chain = chord ? chord->body : NULL;

    if (!chain)
        return;
    struct sigs *tasks = chain->tasks;
    struct values links = values_of(c, option_get(&chain->options, "link"));
    struct values errbacks = values_of(c, option_get(&chain->options, "link_error"));
    struct options first = first_step_options(c, chain);

    for (size_t i = 0; i < links.n; i++)
        sig_link(c, tasks->v[tasks->n - 1], links.v[i]);
    for (size_t i = 0; i < errbacks.n; i++) {
        for (size_t k = 0; k < tasks->n; k++)
            sig_link_error(c, tasks->v[k], errbacks.v[i]);
    }
    chord->body = tasks->v[0];
    chord->body->options = options_merge(c, &chord->body->options, &first);
    sigs_add(c, ret_steps, chord);
    for (size_t i = 1; i < tasks->n; i++)
        sigs_add(c, ret_steps, tasks->v[i]);
}

static bool is_split(const struct sig *s)
{
    return s->type == SIG_CHORD && led_by_task(s->body);
}

int chain_unroll_chords(struct canvas *c, struct sig *chain)
{
    struct sigs stack = {0}, *tasks = sigs_new(c);

    for (size_t i = chain->tasks->n; i > 0; i--)
        sigs_add(c, &stack, chain->tasks->v[i - 1]);
    while (tasks && stack.n > 0 && c->code == 0) {
        struct sig *s = stack.v[--stack.n];
        struct sigs steps = {0};

        if (s->type == SIG_CHAIN) {
            s = sig_clone(c, s);
            if (!s || chain_unroll_chords(c, s))
                return c->code;
        }
        if (!is_split(s)) {
            sigs_add(c, tasks, s);
            continue;
        }
        unroll_body(c, s, &steps);
        for (size_t i = steps.n; i > 0; i--)
            sigs_add(c, &stack, steps.v[i - 1]);
    }
    if (tasks)
        chain->tasks = tasks;
    return c->code;
}

/* ---- chords inside an execution copy carry their body once, not under each member ---- */

static void clear_chord(struct sig *s)
{
    option_remove(&s->options, "chord");
    if (s->type == SIG_GROUP) {
        for (size_t i = 0; i < s->tasks->n; i++)
            clear_chord(s->tasks->v[i]);
    } else if (s->type == SIG_CHAIN && s->tasks->n > 0) {
        clear_chord(s->tasks->v[s->tasks->n - 1]);
    } else if (s->type == SIG_CHORD && s->body) {
        clear_chord(s->body);
    }
}

void chord_strip_links(struct sig *s)
{
    if (s->type == SIG_CHORD && s->header) {
        clear_chord(s->header);
        chord_strip_links(s->header);
        if (s->body)
            chord_strip_links(s->body);
    } else if (s->type == SIG_GROUP || s->type == SIG_CHAIN) {
        for (size_t i = 0; i < s->tasks->n; i++)
            chord_strip_links(s->tasks->v[i]);
    }
}

/* ---- preparing the steps ---- */

struct prepare {
    const struct steps *o;
    struct sigs queue; /* taken from its end; from head on */
    size_t head;
    struct sigs tasks; /* done, last first */
    struct result **results;
    size_t n_results, cap_results;
    struct sig *prev;
    struct result *prev_result;
    size_t n_frozen;
};

static size_t queue_len(const struct prepare *p)
{
    return p->queue.n - p->head;
}

static void queue_extend(struct canvas *c, struct prepare *p, const struct sigs *l)
{
    for (size_t i = 0; i < l->n; i++)
        sigs_add(c, &p->queue, l->v[i]);
}

/* list takes the place of the first step. */
static void queue_splice(struct canvas *c, struct prepare *p, const struct sigs *list)
{
    struct sigs fresh = {0};

    for (size_t i = 0; i < list->n; i++)
        sigs_add(c, &fresh, list->v[i]);
    for (size_t i = p->head + 1; i < p->queue.n; i++)
        sigs_add(c, &fresh, p->queue.v[i]);
    p->queue = fresh;
    p->head = 0;
}

/* The first real step must be the one that is taken last, for it gets the arguments. */
static void settle_head(struct canvas *c, struct prepare *p)
{
    struct sig *stripped = NULL;

    while (queue_len(p) > 0 && c->code == 0) {
        struct sig *head = unroll_group(p->queue.v[p->head]);

        if (p->queue.v[p->head]->type == SIG_CHAIN) {
            queue_splice(c, p, head->tasks);
            continue;
        }
        p->queue.v[p->head] = head;
        if (queue_len(p) < 2 || !sig_is_empty_group(head))
            break;
        stripped = head;
        p->head++;
    }
    if (stripped && queue_len(p) == 0)
        sigs_add(c, &p->queue, stripped);
}

/* group | step. Unlinks the rest from the body's result, so that it is linked to the chord's below. */
static struct sig *make_chord(struct canvas *c, struct prepare *p, struct sig *group)
{
    struct sig *chord = sig_new(c, SIG_CHORD, "celery.chord");
    struct result *body_result = p->results[--p->n_results];
    struct result *node = p->n_results ? p->results[p->n_results - 1] : NULL;

    p->tasks.n--;
    if (!chord)
        return NULL;
    chord->tasks = sigs_copy(c, group->tasks);
    if (!chord->tasks)
        return NULL;
    chord->body = p->prev;
    if (!p->prev_result->group)
        option_set_text(c, &chord->options, "task_id", p->prev_result->id);
    option_set_text(c, &chord->options, "root_id", p->o->root_id);
    p->prev = p->tasks.n ? p->tasks.v[p->tasks.n - 1] : NULL;
    while (node && node->parent != body_result)
        node = node->parent;
    if (node) {
        node->parent = NULL;
        p->prev_result = node;
    }
    return chord;
}

static int freeze_step(struct canvas *c, struct prepare *p, struct sig *s, struct result **ret_r)
{
    const struct steps *o = p->o;
    struct freeze f = {.root_id = o->root_id};

    if (p->n_frozen++ == 0) {
        f.id = o->last_id;
        f.group_id = o->group_id;
        f.chord = o->chord;
        f.group_index = o->group_index;
    }
    return sig_freeze(c, s, &f, ret_r);
}

static void link_errors(struct canvas *c, const struct steps *o, struct sig *s)
{
    struct values errbacks = values_of(c, o->link_error);

    for (size_t i = 0; i < errbacks.n; i++) {
        sig_link_error(c, s, errbacks.v[i]);
        if (s->type == SIG_CHORD && s->body)
            sig_link_error(c, s->body, errbacks.v[i]);
    }
}

static int add_step(struct canvas *c, struct prepare *p, struct sig *s)
{
    struct result *r;

    if (s->type == SIG_GROUP && p->prev) {
        s = make_chord(c, p, s);
        if (!s)
            return c->code;
    }
    if (freeze_step(c, p, s, &r))
        return c->code;
    if (p->prev && p->prev_result && !p->prev_result->parent)
        p->prev_result->parent = r;
    link_errors(c, p->o, s);
    sigs_add(c, &p->tasks, s);
    if (!canvas_grow(c, &p->results, p->n_results, &p->cap_results, sizeof(struct result *)))
        return c->code;
    p->results[p->n_results++] = r;
    p->prev = s;
    p->prev_result = r;
    while (s->type == SIG_CHORD && p->prev_result->parent)
        p->prev_result = p->prev_result->parent; /* what comes before leads to the header */
    return c->code;
}

/* A group or chain forgets arguments that it is given as a copy; only tasks and chords take them. */
static void first_arguments(struct canvas *c, const struct steps *o, struct sig *s)
{
    if (o->run && (s->type == SIG_TASK || s->type == SIG_CHUNKS || s->type == SIG_CHORD))
        sig_prepend(c, s, o->partial);
}

int chain_prepare(struct canvas *c, const struct sigs *tasks, const struct steps *o,
                  struct sigs *ret_tasks, struct result **ret_first)
{
    struct prepare p = {.o = o};

    queue_extend(c, &p, tasks);
    settle_head(c, &p);
    while (queue_len(&p) > 0 && c->code == 0) {
        struct sig *s = unroll_group(p.queue.v[--p.queue.n]);
        struct sigs steps = {0};

        if (sig_is_empty_group(s) && (queue_len(&p) > 0 || p.prev))
            continue;
        if (o->run && is_split(s)) {
            unroll_body(c, s, &steps);
            queue_extend(c, &p, &steps);
            continue;
        }
        if (o->run)
            s = sig_clone(c, s);
        if (!s)
            return c->code;
        if (queue_len(&p) == 0)
            first_arguments(c, o, s);
        if (s->type == SIG_CHAIN)
            queue_extend(c, &p, s->tasks);
        else if (add_step(c, &p, s))
            return c->code;
    }
    for (size_t i = 0; o->run && i < p.tasks.n; i++)
        chord_strip_links(p.tasks.v[i]);
    *ret_tasks = p.tasks;
    *ret_first = p.n_results ? p.results[0] : NULL;
    return c->code;
}

/* ---- applying ---- */

static struct slice pop_text(struct canvas *c, struct options *o, const char *key)
{
    struct slice text = option_text(c, o, key);

    option_remove(o, key);
    return text;
}

/* chain = what was passed in (it runs after this chain) + our own remaining steps, both last first. */
static void set_remainder(struct canvas *c, struct options *o, const struct sigs *tasks, size_t n)
{
    struct values *l = canvas_alloc(c, sizeof(*l));
    struct values outer = values_of(c, option_get(o, "chain"));

    for (size_t i = 0; l && i < outer.n; i++)
        values_add(c, l, outer.v[i]);
    for (size_t i = 0; l && i < n; i++)
        values_add(c, l, value_sig(tasks->v[i]));
    if (l)
        option_set(c, o, "chain", (struct value){.kind = VALUE_LIST, .list = l});
}

static bool is_index(const struct value *v)
{
    return !value_is_null(v) && v->kind == VALUE_RAW;
}

int chain_apply(struct canvas *c, struct sig *s, const struct partial *partial,
                const struct options *options, struct result **ret_r)
{
    struct options all = options_copy(c, &s->options);
    struct value link = VALUE_NULL, link_error = VALUE_NULL, chord = VALUE_NULL, index = VALUE_NULL;
    struct steps o = {.partial = partial, .run = true};
    struct sigs tasks = {0};
    struct result *first = NULL, *sent = NULL;

    options_update(c, &all, options);
    o.group_id = pop_text(c, &all, "group_id");
    o.last_id = pop_text(c, &all, "task_id");
    o.root_id = pop_text(c, &all, "root_id");
    option_remove(&all, "parent_id");
    (void)option_pop(&all, "link", &link);
    (void)option_pop(&all, "link_error", &link_error);
    if (option_pop(&all, "chord", &chord) && !value_is_null(&chord))
        o.chord = &chord;
    if (option_pop(&all, "group_index", &index) && is_index(&index))
        o.group_index = index.raw;
    o.link_error = &link_error;
    if (chain_prepare(c, s->tasks, &o, &tasks, &first) || !first)
        return c->code;
    if (!value_is_null(&link) && values_of(c, &link).n > 0)
        option_extend(c, &tasks.v[0]->options, "link", link);
    set_remainder(c, &all, &tasks, tasks.n - 1);
    if (sig_apply(c, tasks.v[tasks.n - 1], NULL, &all, &sent))
        return c->code;
    if (ret_r)
        *ret_r = tasks.n == 1 ? sent : first;
    return c->code;
}
