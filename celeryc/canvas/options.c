/* SPDX-License-Identifier: Apache-2.0 */
/* Options of a signature: an ordered map whose values stay text until somebody has to add to them. */

#include "celeryc/canvas/canvas_priv.h"

#include "celeryc/base/limits.h"

#include <errno.h>
#include <string.h>

/* ---- values ---- */

void values_add(struct canvas *c, struct values *l, struct value v)
{
    if (canvas_grow(c, &l->v, l->n, &l->cap, sizeof(*l->v)))
        l->v[l->n++] = v;
}

struct values values_of(struct canvas *c, const struct value *v)
{
    struct values l = {0};
    struct json_iter it;

    if (value_is_null(v))
        return l;
    if (v->kind == VALUE_LIST)
        return *v->list;
    if (v->kind == VALUE_SIG || v->raw.kind != JSON_K_ARRAY) {
        values_add(c, &l, *v);
        return l;
    }
    for (json_iter_init(&it, v->raw); json_next(&it);)
        values_add(c, &l, value_raw(it.val));
    return l;
}

bool value_equal(struct canvas *c, const struct value *a, const struct value *b)
{
    if (a->kind == VALUE_SIG && b->kind == VALUE_SIG && a->sig == b->sig)
        return true;
    if (a->kind == VALUE_RAW && b->kind == VALUE_RAW && slice_eq(a->raw.raw, b->raw.raw))
        return true;
    CLEANUP(buf_deinit) struct buf left = BUF_INIT;
    CLEANUP(buf_deinit) struct buf right = BUF_INIT;
    value_write(c, &left, a);
    value_write(c, &right, b);
    if (left.failed || right.failed)
        (void)canvas_fail(c, -ENOMEM);
    return c->code == 0 && slice_eq(buf_slice(&left), buf_slice(&right));
}

/* ---- the map ---- */

struct value *option_find(const struct options *o, struct slice key)
{
    for (size_t i = 0; i < o->n; i++) {
        if (slice_eq(o->v[i].key, key))
            return &o->v[i].value;
    }
    return NULL;
}

struct value *option_get(const struct options *o, const char *key)
{
    return option_find(o, slice_str(key));
}

void option_set_key(struct canvas *c, struct options *o, struct slice key, struct value v)
{
    struct value *at = option_find(o, key);

    if (at)
        *at = v;
    else if (canvas_grow(c, &o->v, o->n, &o->cap, sizeof(*o->v)))
        o->v[o->n++] = (struct option){key, v};
}

void option_set(struct canvas *c, struct options *o, const char *key, struct value v)
{
    option_set_key(c, o, slice_str(key), v);
}

void option_set_text(struct canvas *c, struct options *o, const char *key, struct slice utf8)
{
    option_set(c, o, key, utf8.p ? value_raw(canvas_text(c, utf8)) : VALUE_NULL);
}

static void remove_at(struct options *o, size_t i)
{
    memmove(&o->v[i], &o->v[i + 1], (o->n - i - 1) * sizeof(*o->v));
    o->n--;
}

bool option_pop(struct options *o, const char *key, struct value *ret_v)
{
    for (size_t i = 0; i < o->n; i++) {
        if (!slice_eq_str(o->v[i].key, key))
            continue;
        *ret_v = o->v[i].value;
        remove_at(o, i);
        return true;
    }
    return false;
}

void option_remove(struct options *o, const char *key)
{
    struct value gone;

    (void)option_pop(o, key, &gone);
}

struct slice option_text(struct canvas *c, const struct options *o, const char *key)
{
    const struct value *v = option_get(o, key);
    struct slice text;
    int code;

    if (value_is_null(v) || v->kind != VALUE_RAW || v->raw.kind != JSON_K_STRING)
        return SLICE_NULL;
    code = json_string(c->arena, v->raw, &text);
    if (code) {
        (void)canvas_fail(c, code);
        return SLICE_NULL;
    }
    return text.len ? text : SLICE_NULL;
}

void options_drop_nulls(struct options *o)
{
    for (size_t i = 0; i < o->n;) {
        if (value_is_null(&o->v[i].value))
            remove_at(o, i);
        else
            i++;
    }
}

struct options options_copy(struct canvas *c, const struct options *o)
{
    struct options copy = {0};

    if (!o || o->n == 0 || c->code)
        return copy;
    copy.v = canvas_alloc(c, (o->n + 4) * sizeof(*copy.v));
    if (!copy.v)
        return copy;
    memcpy(copy.v, o->v, o->n * sizeof(*copy.v));
    copy.n = o->n;
    copy.cap = o->n + 4;
    return copy;
}

void options_update(struct canvas *c, struct options *to, const struct options *from)
{
    for (size_t i = 0; from && i < from->n; i++)
        option_set_key(c, to, from->v[i].key, from->v[i].value);
}

/* group_id and stamps that a signature has are never overridden: that would stall a chord or lose a stamp. */
static bool stays(struct canvas *c, const struct options *own, struct slice key)
{
    const struct value *names;
    struct values l;

    if (!option_find(own, key))
        return false;
    if (slice_eq_str(key, "group_id") || slice_eq_str(key, "stamped_headers"))
        return true;
    names = option_get(own, "stamped_headers");
    if (!names)
        return false;
    l = values_of(c, names);
    for (size_t i = 0; i < l.n; i++) {
        struct slice name;

        if (l.v[i].kind == VALUE_RAW && json_string(c->arena, l.v[i].raw, &name) == 0 &&
            slice_eq(name, key))
            return true;
    }
    return false;
}

struct options options_merge(struct canvas *c, const struct options *own,
                             const struct options *call)
{
    struct options o = options_copy(c, own);

    for (size_t i = 0; call && i < call->n; i++) {
        if (!stays(c, own, call->v[i].key))
            option_set_key(c, &o, call->v[i].key, call->v[i].value);
    }
    return o;
}

/* ---- list options ---- */

/* The list of an option, made one if it is a scalar or still text. Never the list of somebody else. */
static struct values *list_of(struct canvas *c, struct options *o, const char *key)
{
    struct value *v = option_get(o, key);
    struct values *l = canvas_alloc(c, sizeof(*l));
    struct values old;

    if (!l)
        return NULL;
    old = values_of(c, v);
    if (old.n >= LIMIT_SIG_LINKS) {
        (void)canvas_bad(c, "too many links");
        return NULL;
    }
    for (size_t i = 0; i < old.n; i++)
        values_add(c, l, old.v[i]);
    option_set(c, o, key, (struct value){.kind = VALUE_LIST, .list = l});
    return l;
}

void option_append(struct canvas *c, struct options *o, const char *key, struct value v)
{
    struct values *l = list_of(c, o, key);

    if (!l)
        return;
    for (size_t i = 0; i < l->n; i++) {
        if (value_equal(c, &l->v[i], &v))
            return;
    }
    values_add(c, l, v);
}

void option_extend(struct canvas *c, struct options *o, const char *key, struct value v)
{
    struct values *l = list_of(c, o, key);
    struct values more = values_of(c, &v);

    for (size_t i = 0; l && i < more.n; i++)
        values_add(c, l, more.v[i]);
}

int options_read(struct canvas *c, struct json_val object, struct options *ret_o)
{
    struct options o = {0};
    struct json_iter it;

    for (json_iter_init(&it, object); json_next(&it);) {
        struct slice key;
        int code = json_string(c->arena, it.key, &key);

        if (code)
            return canvas_fail(c, code);
        if (o.n >= LIMIT_SIG_OPTIONS)
            return canvas_bad(c, "too many options");
        option_set_key(c, &o, key, value_raw(it.val));
    }
    *ret_o = o;
    return c->code;
}
