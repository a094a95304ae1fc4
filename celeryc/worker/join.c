/* SPDX-License-Identifier: Apache-2.0 */
/* Parts are kept in the order in which they were stored and by id. The tree of a nested header names its leaves; a leaf
 * whose part was counted is taken from there, since a member may ignore its result and then has no record.
 *
 * Everything comes from Redis: nothing is trusted to be well-formed, and depth and number are bounded. */
#include "celeryc/worker/join.h"

#include "celeryc/base/limits.h"
#include "celeryc/base/map.h"
#include "celeryc/canvas/canvas.h"
#include "celeryc/message/record.h"

#include <errno.h>

struct leaf {
    struct slice id, member;
    struct slice value; /* result, or the exception */
    bool failed;
};

struct join {
    struct arena *arena, *scratch;
    struct json_val tree; /* [[id, parent], [children]] of the header; NONE: flat */
    struct leaf **parts;
    size_t n_parts, cap_parts;
    struct map *leaves; /* id -> struct leaf */
    struct map *called; /* values of CANVAS_CALLED that were seen */
    struct buf all_called;
    struct slice *missing;
    size_t n_missing, cap_missing;
};

struct join *join_new(void)
{
    CLEANUP(join_free) struct join *j = calloc(1, sizeof(*j));
    if (!j)
        return NULL;
    j->arena = arena_new();
    j->scratch = arena_new();
    j->leaves = map_new();
    j->called = map_new();
    return j->arena && j->scratch && j->leaves && j->called ? STEAL(j) : NULL;
}

struct join *join_free(struct join *j)
{
    if (!j)
        return NULL;
    arena_free(j->arena);
    arena_free(j->scratch);
    map_free(j->leaves);
    map_free(j->called);
    buf_deinit(&j->all_called);
    free(j->parts);
    free(j->missing);
    free(j);
    return NULL;
}

struct arena *join_scratch(struct join *j)
{
    return j->scratch;
}

/* The JSON text of stored bytes, in the arena. */
static int text_of(struct join *j, struct slice stored, struct json_val *ret_v, struct err *e)
{
    struct slice text;
    int r = record_inflate(j->arena, stored, &text, e);
    if (r)
        return r;
    char *copy = arena_strdup(j->arena, text);
    return copy ? json_scan((struct slice){copy, text.len}, ret_v, e) : -ENOMEM;
}

int join_saved(struct join *j, struct slice stored, struct err *e)
{
    struct json_val v;
    if (stored.len == 0)
        return 0;
    int r = text_of(j, stored, &v, e);
    if (r)
        return r;
    v = json_get(v, "result");
    if (v.kind != JSON_K_ARRAY || json_at(v, 1).kind != JSON_K_ARRAY)
        return err_set(e, -EINVAL, "the saved group result cannot be read");
    j->tree = v;
    return 0;
}

static int add_leaf(struct join *j, const struct leaf *like)
{
    struct leaf *l = arena_alloc(j->arena, sizeof(*l));
    if (!l)
        return -ENOMEM;
    *l = *like;
    return map_get(j->leaves, l->id) ? 0 : map_set(j->leaves, l->id, l);
}

/* Ten thousand chords of one header may all say the same. */
static int add_called(struct join *j, struct json_val exception)
{
    struct json_val v = json_get(exception, CANVAS_CALLED);
    if (v.kind != JSON_K_STRING || map_get(j->called, v.raw))
        return 0;
    buf_append_str(&j->all_called, j->all_called.len ? ", " : "[");
    buf_append_slice(&j->all_called, v.raw);
    return buf_ok(&j->all_called) ? -ENOMEM : map_set(j->called, v.raw, j);
}

int join_called(struct join *j, struct arena *a, struct slice *ret)
{
    *ret = SLICE_NULL;
    if (j->all_called.len == 0)
        return 0;
    char *text = arena_printf(a, "%.*s]", (int)j->all_called.len, j->all_called.data);
    if (!text)
        return -ENOMEM;
    *ret = slice_str(text);
    return 0;
}

int join_part(struct join *j, struct slice stored, struct err *e)
{
    struct json_val v;
    int r = text_of(j, stored, &v, e);
    if (r)
        return r;
    struct slice state;
    struct leaf l = {.member = v.raw, .value = json_at(v, 3).raw};
    if (v.kind != JSON_K_ARRAY || json_len(v) != 4 || json_string(j->arena, json_at(v, 1), &l.id) ||
        json_string(j->arena, json_at(v, 2), &state))
        return err_set(e, -EINVAL, "a part of the chord cannot be read");
    l.failed = slice_eq_str(state, "FAILURE") || slice_eq_str(state, "REVOKED");
    if (j->n_parts == j->cap_parts) {
        size_t cap = j->cap_parts ? j->cap_parts * 2 : 64;
        struct leaf **more = realloc(j->parts, cap * sizeof(struct leaf *));
        if (!more)
            return -ENOMEM;
        j->parts = more;
        j->cap_parts = cap;
    }
    struct leaf *own = arena_alloc(j->arena, sizeof(*own));
    if (!own)
        return -ENOMEM;
    *own = l;
    j->parts[j->n_parts++] = own;
    r = l.failed ? add_called(j, json_at(v, 3)) : 0;
    return r ? r : add_leaf(j, &l);
}

/* ---- flat ---- */

static int flat_results(struct join *j, size_t *ret_n, const struct slice **ret_results,
                        struct join_failure *ret_failure)
{
    struct slice *v = arena_alloc_array(j->arena, j->n_parts, sizeof(*v));
    if (!v)
        return -ENOMEM;
    for (size_t i = 0; i < j->n_parts; i++) {
        if (j->parts[i]->failed) {
            *ret_failure = (struct join_failure){.member = j->parts[i]->member};
            return JOIN_E_FAILED;
        }
        v[i] = j->parts[i]->value;
    }
    *ret_n = j->n_parts;
    *ret_results = v;
    return 0;
}

/* ---- the tree ---- */

static int add_missing(struct join *j, struct slice id)
{
    if (j->n_missing == j->cap_missing) {
        size_t cap = j->cap_missing ? j->cap_missing * 2 : 64;
        struct slice *more = realloc(j->missing, cap * sizeof(*more));
        if (!more)
            return -ENOMEM;
        j->missing = more;
        j->cap_missing = cap;
    }
    j->missing[j->n_missing++] = id;
    return 0;
}

static int tell_failure(struct join *j, const struct leaf *l, struct join_failure *ret_failure)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct json_val x = {JSON_K_NULL, SLICE_LIT("null")};
    struct slice type = SLICE_NULL;
    if (json_scan(l->value, &x, NULL))
        x = (struct json_val){JSON_K_NULL, SLICE_LIT("null")};
    struct json_val args = json_get(x, "exc_message");
    bool named = json_string(j->arena, json_get(x, "exc_type"), &type) == 0;
    if (named && args.kind == JSON_K_ARRAY)
        record_write_exception_repr(&b, type, args.raw);
    else
        json_write_python(&b, x);
    char *copy = buf_ok(&b) ? NULL : arena_strdup(j->arena, buf_slice(&b));
    if (!copy)
        return -ENOMEM;
    *ret_failure = (struct join_failure){.text = {copy, b.len}};
    return JOIN_E_FAILED;
}

/* node: [[id, parent], null] or [[id, parent], [nodes]]. */
static int join_node(struct join *j, struct json_val node, struct buf *dst,
                     struct join_failure *ret_failure)
{
    struct json_val children = json_at(node, 1);
    if (children.kind == JSON_K_ARRAY) {
        struct json_iter it;
        int r = 0;
        bool first = true;
        buf_append_char(dst, '[');
        for (json_iter_init(&it, children); r == 0 && json_next(&it); first = false) {
            buf_append_str(dst, first ? "" : ", ");
            r = join_node(j, it.val, dst, ret_failure);
        }
        buf_append_char(dst, ']');
        return r;
    }
    struct slice id;
    int r = json_string(j->arena, json_at(json_at(node, 0), 0), &id);
    if (r == -ENOMEM)
        return r;
    if (r) {
        *ret_failure =
            (struct join_failure){.text = SLICE_LIT("the saved group result is damaged")};
        return JOIN_E_FAILED;
    }
    const struct leaf *l = map_get(j->leaves, id);
    if (!l)
        return add_missing(j, id);
    if (l->failed)
        return tell_failure(j, l, ret_failure);
    buf_append_slice(dst, l->value);
    return 0;
}

static int tree_results(struct join *j, size_t *ret_n, const struct slice **ret_results,
                        struct join_failure *ret_failure)
{
    struct json_val children = json_at(j->tree, 1);
    size_t n = json_len(children), i = 0;
    struct slice *v = arena_alloc_array(j->arena, n, sizeof(*v));
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct json_iter it;
    if (!v)
        return -ENOMEM;
    j->n_missing = 0;
    for (json_iter_init(&it, children); json_next(&it) && i < n; i++) {
        buf_reset(&b);
        int r = join_node(j, it.val, &b, ret_failure);
        if (r)
            return r;
        if (j->n_missing)
            continue;
        char *copy = buf_ok(&b) ? NULL : arena_strdup(j->arena, buf_slice(&b));
        if (!copy)
            return -ENOMEM;
        v[i] = (struct slice){copy, b.len};
    }
    if (j->n_missing)
        return JOIN_E_MISSING;
    *ret_n = i;
    *ret_results = v;
    return 0;
}

int join_results(struct join *j, size_t *ret_n, const struct slice **ret_results,
                 struct join_failure *ret_failure)
{
    if (j->tree.kind == JSON_K_NONE)
        return flat_results(j, ret_n, ret_results, ret_failure);
    return tree_results(j, ret_n, ret_results, ret_failure);
}

void join_missing(struct join *j, size_t most, size_t *ret_n, const struct slice **ret_ids)
{
    arena_reset(j->scratch);
    *ret_n = MIN(most, j->n_missing);
    *ret_ids = j->missing;
}

int join_found(struct join *j, size_t index, struct slice stored)
{
    struct json_val v;
    struct record_view view;
    if (index >= j->n_missing)
        return 0;
    int r = text_of(j, stored, &v, NULL);
    if (r)
        return r == -ENOMEM ? r : 0;
    r = record_parse(v.raw, &view, NULL);
    if (r)
        return r == -ENOMEM ? r : 0;
    if (!record_ready(&view))
        return 0;
    struct leaf l = {.id = j->missing[index], .value = view.result.raw};
    l.failed = !slice_eq_str(view.status.raw, "\"SUCCESS\"");
    return add_leaf(j, &l);
}
