/* SPDX-License-Identifier: Apache-2.0 */
/* The Lease's annotation: one JSON object, small enough for 2,000 workers. It comes back from a place where people can
 * edit it, so that everything in it is checked. */

#include "k8s/scaler/memory.h"

#include "celeryc/base/limits.h"
#include "k8s/scaler/fields.h"

#include <errno.h>

/* clang-format off */
#define TIME(name, field) {name, FIELD_TIME, offsetof(struct memory, field), 0, FIELD_TIME_MAX, NULL, NULL}
#define COUNT(name, field) {name, FIELD_INT, offsetof(struct memory, field), 0, FIELD_COUNT_MAX, NULL, NULL}
#define NUM(name, field) {name, FIELD_NUM, offsetof(struct memory, field), 0, 1e12, NULL, NULL}

static const struct field fields[] = {
    TIME("idle_since", d.idle_since),
    TIME("waiting_since", d.waiting_since),
    TIME("last_up", d.last_up),
    TIME("last_down", d.last_down),
    COUNT("fails", d.fails),
    COUNT("budget_day", d.budget_day),
    NUM("budget_spent", d.budget_spent),
    TIME("budget_at", d.budget_at),
    NUM("rate", rate),
    TIME("sampled_at", sampled_at),
    COUNT("outstanding", outstanding),
    TIME("emptied_at", emptied_at),
    {0},
};

/* clang-format on */

void memory_init(struct memory *m)
{
    *m = (struct memory){.sampled_at = DECIDE_NEVER, .emptied_at = DECIDE_NEVER};
    decide_state_init(&m->d);
}

void memory_deinit(struct memory *m)
{
    for (size_t i = 0; i < m->n_nodes; i++)
        free(m->nodes[i].name);
    free(m->nodes);
    memory_init(m);
}

int memory_add_node(struct memory *m, struct slice name, int64_t processed)
{
    struct memory_node *nodes;
    char *copy;

    if (m->n_nodes >= LIMIT_SCALER_NODES)
        return 0; /* of what is not remembered, nothing is said to be idle */
    nodes = reallocarray(m->nodes, m->n_nodes + 1, sizeof(*nodes));
    if (!nodes)
        return -ENOMEM;
    m->nodes = nodes;
    copy = slice_dup(name);
    if (!copy)
        return -ENOMEM;
    nodes[m->n_nodes++] = (struct memory_node){copy, processed};
    return 0;
}

const struct memory_node *memory_find_node(const struct memory *m, const char *name)
{
    for (size_t i = 0; i < m->n_nodes; i++)
        if (str_eq(m->nodes[i].name, name))
            return &m->nodes[i];
    return NULL;
}

/* ---- reading ---- */

static int read_time(struct json_val v, int64_t *ret_v)
{
    int r = json_i64(v, ret_v);

    return r || *ret_v < 0 || *ret_v > (int64_t)FIELD_TIME_MAX ? -EINVAL : 0;
}

static int read_count(struct json_val v, int64_t *ret_v)
{
    int r = json_i64(v, ret_v);

    return r || *ret_v < 0 || *ret_v > (int64_t)FIELD_COUNT_MAX ? -EINVAL : 0;
}

static int read_wishes(struct memory *m, struct json_val v, struct err *e)
{
    struct json_iter it;

    if (v.kind != JSON_K_ARRAY || json_len(v) > DECIDE_MEMORY)
        return err_set(e, -EINVAL, "\"wishes\" is no list of at most %d", DECIDE_MEMORY);
    for (json_iter_init(&it, v); json_next(&it);) {
        struct decide_wish *w = &m->d.wishes[m->d.n_wishes];

        if (json_len(it.val) != 2 || read_time(json_at(it.val, 0), &w->at) ||
            read_count(json_at(it.val, 1), &w->pods))
            return err_set(e, -EINVAL, "\"wishes\" holds what is no [time, pods]");
        m->d.n_wishes++;
    }
    return 0;
}

static int read_nodes(struct memory *m, struct arena *a, struct json_val v, struct err *e)
{
    struct json_iter it;

    if (v.kind != JSON_K_OBJECT || json_len(v) > LIMIT_SCALER_NODES)
        return err_set(e, -EINVAL, "\"nodes\" is no object of at most %d", LIMIT_SCALER_NODES);
    for (json_iter_init(&it, v); json_next(&it);) {
        struct slice name;
        int64_t n = 0;
        int r = json_string(a, it.key, &name);

        if (!r && (json_i64(it.val, &n) || n < 0))
            return err_set(e, -EINVAL, "\"nodes\" holds what is no number");
        if (!r)
            r = memory_add_node(m, name, n);
        if (r)
            return r;
    }
    return 0;
}

static int read_run_id(struct memory *m, struct arena *a, struct json_val v, struct err *e)
{
    struct slice s;
    int r = json_string(a, v, &s);

    if (r == -ENOMEM)
        return r;
    if (r || s.len >= sizeof(m->run_id))
        return err_set(e, -EINVAL, "\"run_id\" is no short text");
    if (s.len)
        memcpy(m->run_id, s.p, s.len);
    return 0;
}

static int read_member(struct memory *m, struct arena *a, struct slice name, struct json_val v,
                       struct err *e)
{
    const struct field *f = field_find(fields, name);

    if (f)
        return field_set(f, m, v, e);
    if (slice_eq_str(name, "wishes"))
        return m->d.n_wishes ? err_set(e, -EINVAL, "\"wishes\" twice") : read_wishes(m, v, e);
    if (slice_eq_str(name, "nodes"))
        return m->n_nodes ? err_set(e, -EINVAL, "\"nodes\" twice") : read_nodes(m, a, v, e);
    if (slice_eq_str(name, "run_id"))
        return m->run_id[0] ? err_set(e, -EINVAL, "\"run_id\" twice") : read_run_id(m, a, v, e);
    return 0; /* of a newer scaler */
}

static int parse(struct slice text, struct memory *m, struct arena *a, struct err *e)
{
    struct json_val v;
    struct json_iter it;
    int64_t version = 0;
    int r;

    if (text.len > LIMIT_KUBE_STATE)
        return err_set(e, -EINVAL, "longer than %u bytes", LIMIT_KUBE_STATE);
    r = json_scan(text, &v, e);
    if (r)
        return r == -ENOMEM ? r : -EINVAL;
    if (v.kind != JSON_K_OBJECT)
        return err_set(e, -EINVAL, "no JSON object");
    if (json_get(v, "v").kind != JSON_K_NONE &&
        (json_i64(json_get(v, "v"), &version) || version != MEMORY_VERSION))
        return err_set(e, -EINVAL, "of another version");
    for (json_iter_init(&it, v); r == 0 && json_next(&it);) {
        struct slice name;

        r = json_string(a, it.key, &name);
        if (!r)
            r = read_member(m, a, name, it.val, e);
    }
    return r;
}

int memory_parse(struct slice text, struct memory *ret_m, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    int r;

    memory_init(ret_m);
    if (!a)
        return -ENOMEM;
    if (!text.p)
        return 0;
    r = parse(text, ret_m, a, e);
    if (r)
        memory_deinit(ret_m);
    return r;
}

/* ---- writing ---- */

void memory_write(struct buf *dst, const struct memory *m)
{
    buf_appendf(dst, "{\"v\": %d, \"wishes\": [", MEMORY_VERSION);
    for (size_t i = 0; i < m->d.n_wishes; i++)
        buf_appendf(dst, "%s[%lld, %lld]", i ? ", " : "", (long long)m->d.wishes[i].at,
                    (long long)m->d.wishes[i].pods);
    buf_append_str(dst, "], ");
    fields_write(dst, fields, m);
    buf_append_str(dst, ", \"run_id\": ");
    json_write_string(dst, slice_str(m->run_id));
    buf_append_str(dst, ", \"nodes\": {");
    for (size_t i = 0; i < m->n_nodes; i++) {
        buf_append_str(dst, i ? ", " : "");
        json_write_string(dst, slice_str(m->nodes[i].name));
        buf_appendf(dst, ": %lld", (long long)m->nodes[i].processed);
    }
    buf_append_str(dst, "}}");
}
