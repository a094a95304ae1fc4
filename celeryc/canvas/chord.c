/* SPDX-License-Identifier: Apache-2.0 */
/* Chords: the header is sent as a group whose members all carry the body; the body waits under its id until the last
 * part has been counted (celery/canvas.py chord.apply_async, run).
 *
 * Options of the call go to the body (with the rest of a chain around the chord) and, less what belongs to the body
 * alone, to the header. A delay holds back the header. */

#include "celeryc/canvas/canvas_priv.h"

#include <errno.h>

/* The errbacks of a chord whose body is a group go to each member, or to the group if it has its own. */
static void link_error_members(struct canvas *c, struct sig *s, struct value errback, bool as_group)
{
    if (s->type == SIG_GROUP) {
        if (as_group && !value_is_null(option_get(&s->options, "link_error"))) {
            option_append(c, &s->options, "link_error", errback);
            return;
        }
        for (size_t i = 0; i < s->tasks->n; i++)
            link_error_members(c, s->tasks->v[i], errback, false);
    } else if (s->type == SIG_CHORD && s->body) {
        link_error_members(c, s->body, errback, true);
    } else {
        sig_link_error(c, s, errback);
    }
}

/* link and link_error move from the options to the body: a header must not have them. */
static void move_links(struct canvas *c, struct sig *body, struct options *o)
{
    struct value link = VALUE_NULL, error = VALUE_NULL;
    struct values l;

    (void)option_pop(o, "link", &link);
    (void)option_pop(o, "link_error", &error);
    l = values_of(c, &link);
    for (size_t i = 0; i < l.n; i++) {
        if (sig_is_empty_group(body))
            option_append(c, &body->options, "link", l.v[i]);
        else
            sig_link(c, body, l.v[i]);
    }
    l = values_of(c, &error);
    for (size_t i = 0; i < l.n; i++) {
        if (body->type == SIG_GROUP)
            link_error_members(c, body, l.v[i], true);
        else
            option_append(c, &body->options, "link_error", l.v[i]);
    }
}

/* countdown and eta leave the options; those of the call come before the chord's own. */
static struct options take_delay(struct canvas *c, struct options *own, struct options *call)
{
    static const char *const keys[] = {"countdown", "eta"};
    struct options delay = {0};

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        struct value v;

        if (option_pop(call, keys[i], &v) && !value_is_null(&v))
            option_set(c, &delay, keys[i], v);
        if (option_pop(own, keys[i], &v) && !value_is_null(&v) && !option_get(&delay, keys[i]))
            option_set(c, &delay, keys[i], v);
    }
    return delay;
}

/* {"result": <tuple>}: kept where a member's result is itself a group, so that the nesting is known when all is in. */
static struct slice saved_group(struct canvas *c, const struct result *r)
{
    struct buf b = BUF_INIT;
    bool nested = false;

    for (size_t i = 0; i < r->n && !nested; i++)
        nested = r->v[i]->group;
    if (!nested)
        return SLICE_NULL;
    buf_append_str(&b, "{\"result\": ");
    result_write(&b, r);
    buf_append_char(&b, '}');
    return canvas_keep(c, &b);
}

/* An empty header: the body is called at once, with no results. */
static int apply_body(struct canvas *c, struct sig *body)
{
    struct partial none = {0};

    values_add(c, &none.args, value_raw((struct json_val){JSON_K_ARRAY, SLICE_LIT("[]")}));
    return sig_apply(c, body, &none, NULL, NULL);
}

/* The start of this chord, among those that sending its header has added. */
static void save_group(struct canvas *c, size_t from, struct slice group_id, struct slice saved)
{
    for (size_t i = c->fx->n_starts; i > from; i--) {
        if (!slice_eq(c->fx->starts[i - 1].group_id, group_id))
            continue;
        c->fx->starts[i - 1].saved = saved;
        c->bytes += saved.len;
        return;
    }
}

/* The options that reach the body: all but parent_id, for the member that fires it is its parent. */
static struct options body_options(struct canvas *c, const struct options *o)
{
    struct options copy = options_copy(c, o);

    option_remove(&copy, "parent_id");
    return copy;
}

struct chord_run {
    struct sig *header, *body;
    struct partial partial;
    struct options options, delay;
    struct slice body_id;
};

static int run(struct canvas *c, struct chord_run *r, struct result **ret_r)
{
    struct slice group_id = option_text(c, &r->header->options, "task_id");
    struct slice root_id = option_text(c, &r->body->options, "root_id");
    const struct value body = value_sig(r->body);
    struct result *body_result, *header_result, *node;

    if (r->options.n > 0) {
        struct options more;

        option_remove(&r->options, "task_id");
        move_links(c, r->body, &r->options);
        more = body_options(c, &r->options);
        options_update(c, &r->body->options, &more);
    }
    if (r->body->type == SIG_CHAIN && chain_unroll_chords(c, r->body))
        return c->code;
    const struct freeze fb = {
        .id = r->body_id.p ? r->body_id : canvas_uuid(c), .group_id = group_id, .root_id = root_id};
    if (sig_freeze(c, r->body, &fb, &body_result))
        return c->code;
    chord_strip_links(r->body);
    option_remove(&r->options, "chain");
    option_remove(&r->options, "chord");
    const struct freeze fh = {.group_id = group_id, .chord = &body, .root_id = root_id};
    if (group_freeze_members(c, r->header, &fh, &header_result))
        return c->code;
    for (node = body_result; node->parent; node = node->parent)
        ;
    node->parent = header_result;
    if (ret_r)
        *ret_r = body_result;
    if (r->header->tasks->n == 0)
        return apply_body(c, r->body);
    option_set_text(c, &r->options, "task_id", group_id);
    options_update(c, &r->options, &r->delay);
    const struct slice saved = saved_group(c, header_result);
    const size_t from = c->fx->n_starts;
    if (group_apply(c, r->header, &r->partial, &r->options, NULL) == 0 && saved.p)
        save_group(c, from, group_id, saved);
    return c->code;
}

int chord_apply(struct canvas *c, struct sig *s, const struct partial *partial,
                const struct options *options, struct result **ret_r)
{
    struct options own = options_copy(c, &s->options), call = options_copy(c, options), more;
    struct value link = VALUE_NULL, error = VALUE_NULL;
    struct chord_run r = {.header = s->header ? sig_clone(c, s->header) : NULL};
    struct slice own_id = option_text(c, &own, "task_id");

    if (!s->body)
        return canvas_bad(c, "a chord without a body");
    sig_prepend(c, s, partial);
    r.partial.args = s->partial;
    struct json_iter it;
    for (json_iter_init(&it, s->args); json_next(&it);)
        values_add(c, &r.partial.args, value_raw(it.val));
    r.partial.kwargs = s->kwargs;
    r.body_id = option_text(c, &call, "task_id");
    if (!r.body_id.p)
        r.body_id = own_id;
    option_remove(&call, "task_id");
    option_remove(&own, "task_id");
    r.delay = take_delay(c, &own, &call);
    (void)option_pop(&call, "link", &link);
    (void)option_pop(&call, "link_error", &error);
    more = body_options(c, &call);
    r.body = sig_clone(c, s->body);
    if (!r.body)
        return c->code;
    r.body->options = options_merge(c, &r.body->options, &more);
    if (!r.header) {
        r.header = sig_new(c, SIG_GROUP, "celery.group");
        if (!r.header)
            return c->code;
        r.header->tasks = sigs_copy(c, s->tasks);
        option_set_text(c, &r.header->options, "task_id", own_id.p ? own_id : canvas_uuid(c));
    }
    if (!option_text(c, &r.header->options, "task_id").p)
        option_set_text(c, &r.header->options, "task_id", canvas_uuid(c));
    r.options = own;
    options_update(c, &r.options, &call);
    if (!value_is_null(&link))
        option_set(c, &r.options, "link", link);
    if (!value_is_null(&error))
        option_set(c, &r.options, "link_error", error);
    return run(c, &r, ret_r);
}
