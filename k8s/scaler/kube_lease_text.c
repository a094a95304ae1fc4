/* SPDX-License-Identifier: Apache-2.0 */
/* A Lease's text: read, and written back with other values.
 *
 * What is not ours in it (labels, other annotations, owner references, fields of later versions) is copied byte for
 * byte, so that a PUT never takes anything away. managedFields is left out: the server keeps its own. */

#include "k8s/scaler/kube_answer_priv.h"

#include <errno.h>

#define US_PER_S INT64_C(1000000)

void answer_lease_deinit(struct answer_lease *l)
{
    free(l->holder);
    free(l->resource_version);
    free(l->state);
    free(l->acquired);
    *l = (struct answer_lease){0};
}

static int read_spec(struct arena *a, struct json_val spec, struct answer_lease *l, struct err *e)
{
    int64_t seconds = 0;
    int code =
        answer_text(a, json_get(spec, "holderIdentity"), "spec.holderIdentity", &l->holder, e);

    if (!code)
        code = answer_text(a, json_get(spec, "acquireTime"), "spec.acquireTime", &l->acquired, e);
    if (!code)
        code = answer_time(a, json_get(spec, "renewTime"), "spec.renewTime", &l->renewed_us, e);
    if (!code)
        code = answer_count(json_get(spec, "leaseDurationSeconds"), "spec.leaseDurationSeconds", 0,
                            &seconds, e);
    if (!code)
        code = answer_count(json_get(spec, "leaseTransitions"), "spec.leaseTransitions", 0,
                            &l->transitions, e);
    if (code)
        return code;
    l->duration_us = seconds * US_PER_S;
    if (l->holder && !*l->holder)
        l->holder = mem_free(l->holder);
    return 0;
}

int answer_lease(struct slice body, struct answer_lease *ret_l, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(answer_lease_deinit) struct answer_lease l = {0};
    struct json_val v, meta;
    int code = a ? answer_scan(body, "Lease", &v, e) : -ENOMEM;

    if (code)
        return code;
    meta = json_get(v, "metadata");
    code = read_spec(a, json_get(v, "spec"), &l, e);
    if (!code)
        code = answer_text(a, json_get(meta, "resourceVersion"), "metadata.resourceVersion",
                           &l.resource_version, e);
    if (!code)
        code = answer_text(a, json_get(json_get(meta, "annotations"), KUBE_LEASE_STATE),
                           KUBE_LEASE_STATE, &l.state, e);
    if (code)
        return code;
    if (!l.resource_version)
        return err_set(e, -EINVAL, "metadata.resourceVersion is missing");
    *ret_l = l;
    l = (struct answer_lease){0};
    return 0;
}

/* ---- writing ---- */

static void write_key(struct buf *dst, bool *first, const char *key)
{
    if (!*first)
        buf_append_char(dst, ',');
    *first = false;
    json_write_string(dst, slice_str(key));
    buf_append_char(dst, ':');
}

static void write_text(struct buf *dst, bool *first, const char *key, const char *text)
{
    write_key(dst, first, key);
    json_write_string(dst, slice_str(text));
}

/* Is the key (JSON text) one of the names? Names here need no escapes, and a server writes none. */
static bool is_one_of(struct json_val key, const char *const *names)
{
    for (; *names; names++) {
        size_t n = strlen(*names);

        if (key.raw.len == n + 2 && memcmp(key.raw.p + 1, *names, n) == 0)
            return true;
    }
    return false;
}

/* The members of an object but those named, into an object that is open. */
static void copy_others(struct buf *dst, bool *first, struct json_val object,
                        const char *const *but)
{
    struct json_iter it;

    json_iter_init(&it, object);
    while (json_next(&it)) {
        if (is_one_of(it.key, but))
            continue;
        if (!*first)
            buf_append_char(dst, ',');
        *first = false;
        buf_append_slice(dst, it.key.raw);
        buf_append_char(dst, ':');
        buf_append_slice(dst, it.val.raw);
    }
}

static void write_metadata(struct buf *dst, struct json_val meta, const char *state)
{
    static const char *const changed[] = {"annotations", "managedFields", NULL};
    static const char *const kept[] = {"managedFields", NULL};
    static const char *const ours[] = {KUBE_LEASE_STATE, NULL};
    bool first = true, first_note = true;

    buf_append_char(dst, '{');
    copy_others(dst, &first, meta, state ? changed : kept);
    if (state) {
        write_key(dst, &first, "annotations");
        buf_append_char(dst, '{');
        copy_others(dst, &first_note, json_get(meta, "annotations"), ours);
        write_text(dst, &first_note, KUBE_LEASE_STATE, state);
        buf_append_char(dst, '}');
    }
    buf_append_char(dst, '}');
}

static void write_spec(struct buf *dst, struct json_val spec, const struct lease_change *c)
{
    static const char *const changed[] = {
        "holderIdentity",       "acquireTime",      "renewTime",
        "leaseDurationSeconds", "leaseTransitions", NULL,
    };
    bool first = true;

    buf_append_char(dst, '{');
    copy_others(dst, &first, spec, changed);
    write_text(dst, &first, "holderIdentity", c->holder);
    if (c->acquired)
        write_text(dst, &first, "acquireTime", c->acquired);
    write_text(dst, &first, "renewTime", c->renewed);
    write_key(dst, &first, "leaseDurationSeconds");
    json_write_i64(dst, c->duration_s);
    write_key(dst, &first, "leaseTransitions");
    json_write_i64(dst, c->transitions);
    buf_append_char(dst, '}');
}

int lease_rewrite(struct slice body, const struct lease_change *c, struct buf *dst)
{
    static const char *const changed[] = {"metadata", "spec", NULL};
    struct json_val v;
    bool first = true;
    int code = answer_scan(body, "Lease", &v, NULL);

    if (code)
        return code;
    buf_append_char(dst, '{');
    copy_others(dst, &first, v, changed);
    write_key(dst, &first, "metadata");
    write_metadata(dst, json_get(v, "metadata"), c->state);
    write_key(dst, &first, "spec");
    write_spec(dst, json_get(v, "spec"), c);
    buf_append_char(dst, '}');
    return buf_ok(dst);
}
