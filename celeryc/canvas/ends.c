/* SPDX-License-Identifier: Apache-2.0 */
/* What follows when a task has returned (celery/app/trace.py): its callbacks, then the next step of its chain, then its
 * chord part; and when a chord is complete, its body. The order is Celery's order of publication. */

#include "celeryc/canvas/canvas_priv.h"

#include <errno.h>

struct canvas_parent canvas_parent_of(const struct message *m)
{
    return (struct canvas_parent){m->id, m->root_id.len ? m->root_id : m->id, m->priority};
}

struct partial canvas_one_argument(struct canvas *c, struct json_val v)
{
    struct partial p = {0};

    values_add(c, &p.args, value_raw(v));
    return p;
}

struct slice canvas_text_of(struct canvas *c, struct json_val object, const char *key)
{
    struct json_val v = json_get(object, key);
    struct slice s = SLICE_NULL;

    if (v.kind == JSON_K_STRING && json_string(c->arena, v, &s))
        (void)canvas_fail(c, -ENOMEM);
    return s.len ? s : SLICE_NULL;
}

bool canvas_is_type(struct json_val sig, const char *type)
{
    struct json_val v = json_get(sig, "subtask_type");

    return v.kind == JSON_K_STRING && v.raw.len == strlen(type) + 2 &&
           memcmp(v.raw.p + 1, type, v.raw.len - 2) == 0;
}

/* Options of every continuation: parent, root and a priority, which is null unless it is inherited. */
static struct options continuation(struct canvas *c)
{
    const struct canvas_parent *p = c->parent;
    struct options o = {0};

    option_set_text(c, &o, "parent_id", p->id);
    option_set_text(c, &o, "root_id", p->root_id);
    option_set(c, &o, "priority",
               c->s->inherit_priority ? value_raw(canvas_index(c, (size_t)MAX(p->priority, 0)))
                                      : VALUE_NULL);
    return o;
}

/* ---- success ---- */

/* One callback is applied as it is; of several, groups are applied each, the others as one new group. */
static int call_back(struct canvas *c, struct json_val callbacks, struct json_val result)
{
    const struct partial p = canvas_one_argument(c, result);
    const struct options o = continuation(c);
    struct values l = values_of(c, &(struct value){.kind = VALUE_RAW, .raw = callbacks});
    struct sig *rest = sig_new(c, SIG_GROUP, "celery.group");

    for (size_t i = 0; i < l.n && rest && c->code == 0; i++) {
        struct sig *s;

        if (sig_of(c, &l.v[i], &s))
            return c->code;
        if (l.n == 1 || s->type == SIG_GROUP)
            (void)sig_apply(c, s, &p, &o, NULL);
        else
            sigs_add(c, rest->tasks, s);
    }
    if (rest && rest->tasks->n > 0)
        return group_apply(c, rest, &p, &o, NULL);
    return c->code;
}

/* The last element is the next step; the others go with it. */
static int next_step(struct canvas *c, struct json_val chain, struct json_val result)
{
    const struct partial p = canvas_one_argument(c, result);
    struct options o = continuation(c);
    struct value all = value_raw(chain);
    struct values *rest = canvas_alloc(c, sizeof(*rest));
    struct sig *s;

    if (!rest)
        return c->code;
    *rest = values_of(c, &all);
    if (rest->n == 0)
        return c->code;
    if (sig_of(c, &rest->v[--rest->n], &s))
        return c->code;
    option_set(c, &o, "chain", (struct value){.kind = VALUE_LIST, .list = rest});
    return sig_apply(c, s, &p, &o, NULL);
}

/* ---- chord parts ---- */

/* The score of an index as Redis is given it. One that Redis does not take for a number would make a whole script fail,
 * and floats have their own traps there (1e-400), so anything but an integer counts as none. */
struct slice canvas_score(struct json_val index)
{
    int64_t score;

    return json_i64(index, &score) == 0 ? index.raw : SLICE_LIT("+inf");
}

struct slice canvas_member(struct canvas *c, struct slice id, const char *state,
                           struct slice result)
{
    struct buf b = BUF_INIT;

    buf_append_str(&b, "[1, ");
    json_write_string(&b, id);
    buf_appendf(&b, ", \"%s\", ", state);
    buf_append_slice(&b, result);
    buf_append_char(&b, ']');
    return canvas_keep(c, &b);
}

void canvas_own_part(struct canvas *c, const struct message *m, const struct message_body *b,
                     const char *state, struct slice result)
{
    if (b->chord.kind != JSON_K_OBJECT || !m->group.len || !m->id.len)
        return;
    effect_part(
        c, (struct canvas_part){.group_id = m->group,
                                .task_id = m->id,
                                .score = canvas_score(m->group_index),
                                .member = canvas_member(c, m->id, state, result),
                                .body = b->chord.raw,
                                .failed = str_eq(state, "FAILURE") || str_eq(state, "REVOKED")});
}

int canvas_success(const struct canvas_settings *s, const struct message *m,
                   const struct message_body *b, struct slice result, struct canvas_effects *ret,
                   struct err *e)
{
    const struct canvas_parent parent = canvas_parent_of(m);
    struct canvas c = canvas_begin(s, &parent, ret, e);
    struct json_val v;

    if (!b || (json_is_null(b->callbacks) && json_is_null(b->chain) && json_is_null(b->chord)))
        return 0;
    if (json_scan(result, &v, e))
        return canvas_bad(&c, "the result is not JSON");
    if (!json_is_null(b->callbacks) && call_back(&c, b->callbacks, v))
        return canvas_end(&c);
    if (!json_is_null(b->chain) && next_step(&c, b->chain, v))
        return canvas_end(&c);
    canvas_own_part(&c, m, b, "SUCCESS", v.raw);
    return canvas_end(&c);
}

/* ---- a complete chord ---- */

int canvas_fire(const struct canvas_settings *s, struct slice body, size_t n,
                const struct slice *results, const struct canvas_parent *p,
                struct canvas_effects *ret, struct err *e)
{
    struct canvas c = canvas_begin(s, p, ret, e);
    struct buf list = BUF_INIT;
    struct json_val v = {JSON_K_ARRAY, SLICE_NULL};
    struct partial args;
    struct sig *sig;

    buf_append_char(&list, '[');
    for (size_t i = 0; i < n; i++) {
        buf_append_str(&list, i ? ", " : "");
        buf_append_slice(&list, results[i]);
    }
    buf_append_char(&list, ']');
    v.raw = canvas_keep(&c, &list);
    args = canvas_one_argument(&c, v);
    if (c.code == 0 && sig_read_text(&c, body, &sig) == 0)
        (void)sig_apply(&c, sig, &args, NULL, NULL);
    return canvas_end(&c);
}

/* NOLINTNEXTLINE(readability-function-size): what, with what, for whom, and where to */
int canvas_apply(const struct canvas_settings *s, struct slice signature, size_t n,
                 const struct slice *args, struct slice options, const struct canvas_parent *p,
                 struct canvas_effects *ret, struct slice *ret_result, struct err *e)
{
    struct canvas c = canvas_begin(s, p, ret, e);
    struct options call = {0};
    struct partial partial = {0};
    struct result *r = NULL;
    struct json_val v;
    struct sig *sig;

    for (size_t i = 0; i < n; i++) {
        if (json_scan(args[i], &v, e))
            return canvas_bad(&c, "an argument is not JSON");
        values_add(&c, &partial.args, value_raw(v));
    }
    if (options.p && (json_scan(options, &v, e) || v.kind != JSON_K_OBJECT))
        return canvas_bad(&c, "options are no JSON object");
    if (options.p && options_read(&c, v, &call))
        return c.code;
    if (sig_read_text(&c, signature, &sig) == 0)
        (void)sig_apply(&c, sig, &partial, &call, &r);
    if (c.code == 0 && ret_result) {
        struct buf b = BUF_INIT;

        if (r)
            result_write(&b, r);
        else
            buf_append_str(&b, "null");
        *ret_result = canvas_keep(&c, &b);
    }
    return canvas_end(&c);
}
