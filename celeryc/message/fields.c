/* SPDX-License-Identifier: Apache-2.0 */
/* The task's fields: the headers of protocol 2, the same names in the body of protocol 1. One pass over the object; a
 * key is looked up from the place where the previous one was found, because every known producer writes them in one
 * order, so that the usual message costs one comparison a key. Null means unset everywhere, as in Celery. */

#include "celeryc/base/clock.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/message_priv.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>

#define UUID_HEX_DIGITS 32

enum field {
    FIELD_TASK,
    FIELD_ID,
    FIELD_SHADOW,
    FIELD_ETA,
    FIELD_EXPIRES,
    FIELD_GROUP,
    FIELD_GROUP_INDEX,
    FIELD_RETRIES,
    FIELD_TIMELIMIT,
    FIELD_ROOT_ID,
    FIELD_PARENT_ID,
    FIELD_ARGSREPR,
    FIELD_KWARGSREPR,
    FIELD_ORIGIN,
    FIELD_IGNORE_RESULT,
    FIELD_NESTING,
    FIELD_COMPRESSION,
    FIELD_COUNT,
};

static const struct {
    struct slice name;
    bool not_in_protocol1;
} fields[FIELD_COUNT] = {
    [FIELD_TASK] = {{"task", 4}},
    [FIELD_ID] = {{"id", 2}},
    [FIELD_SHADOW] = {{"shadow", 6}},
    [FIELD_ETA] = {{"eta", 3}},
    [FIELD_EXPIRES] = {{"expires", 7}},
    [FIELD_GROUP] = {{"group", 5}},
    [FIELD_GROUP_INDEX] = {{"group_index", 11}, .not_in_protocol1 = true},
    [FIELD_RETRIES] = {{"retries", 7}},
    [FIELD_TIMELIMIT] = {{"timelimit", 9}},
    [FIELD_ROOT_ID] = {{"root_id", 7}},
    [FIELD_PARENT_ID] = {{"parent_id", 9}},
    [FIELD_ARGSREPR] = {{"argsrepr", 8}},
    [FIELD_KWARGSREPR] = {{"kwargsrepr", 10}},
    [FIELD_ORIGIN] = {{"origin", 6}},
    [FIELD_IGNORE_RESULT] = {{"ignore_result", 13}, .not_in_protocol1 = true},
    [FIELD_NESTING] = {{"replaced_task_nesting", 21}, .not_in_protocol1 = true},
    [FIELD_COMPRESSION] = {{"compression", 11}, .not_in_protocol1 = true},
};

struct reader {
    struct arena *arena;
    struct message *m;
    struct err *err;
};

static int poison_kind(const struct reader *r, enum field f, const char *wanted)
{
    return err_set(r->err, MESSAGE_E_POISON, "%s is not %s", fields[f].name.p, wanted);
}

/* The payload of a typed wrapper {"__type__": type, "__value__": ...}; NONE when v is none of that type. */
static struct json_val unwrap(struct json_val v, const char *type)
{
    struct json_val none = {JSON_K_NONE, SLICE_NULL};
    struct json_val marker = json_get(v, "__type__");

    if (marker.kind != JSON_K_STRING || !json_key_is(marker, slice_str(type)) || json_len(v) != 2)
        return none;
    return json_get(v, "__value__");
}

static bool all_hex(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!isxdigit((unsigned char)s.p[i]))
            return false;
    return true;
}

/* kombu sends a UUID object as {"hex": 32 digits} in a wrapper; Celery then uses its text. */
static int uuid_text(const struct reader *r, struct json_val v, struct slice *ret_s)
{
    struct slice hex;
    char *text;

    if (json_string(r->arena, json_get(unwrap(v, "uuid"), "hex"), &hex) ||
        hex.len != UUID_HEX_DIGITS || !all_hex(hex))
        return -EINVAL;
    text = arena_printf(r->arena, "%.8s-%.4s-%.4s-%.4s-%.12s", hex.p, hex.p + 8, hex.p + 12,
                        hex.p + 16, hex.p + 20);
    if (!text)
        return -ENOMEM;
    *ret_s = slice_str(text);
    return 0;
}

/* A string, or null: p stays NULL. id: a UUID object will do. */
static int read_text(const struct reader *r, enum field f, struct json_val v, bool id,
                     struct slice *dst)
{
    int code;

    if (v.kind == JSON_K_NULL) {
        *dst = SLICE_NULL;
        return 0;
    }
    code = json_string(r->arena, v, dst);
    if (code == -EINVAL && id && v.kind == JSON_K_OBJECT)
        code = uuid_text(r, v, dst);
    return code == -EINVAL ? poison_kind(r, f, "a string") : code;
}

static int read_time(const struct reader *r, enum field f, struct json_val v, bool *dst_has,
                     int64_t *dst_us)
{
    struct json_val wrapped;
    struct slice text;
    int code;

    *dst_has = false;
    if (v.kind == JSON_K_NULL)
        return 0;
    wrapped = unwrap(v, "datetime");
    code = json_string(r->arena, wrapped.kind == JSON_K_NONE ? v : wrapped, &text);
    if (code == -EINVAL)
        return poison_kind(r, f, "a time");
    if (code)
        return code;
    if (text.len == 0)
        return err_set(r->err, MESSAGE_E_POISON, "%s is an empty string", fields[f].name.p);
    code = clock_iso_parse(text, dst_us);
    r->m->eta_out_of_range |= code == -ERANGE && f == FIELD_ETA;
    if (code)
        return err_set(r->err, MESSAGE_E_POISON, "%s is %s: %.*s", fields[f].name.p,
                       code == -ERANGE ? "out of range" : "not an ISO 8601 time",
                       (int)MIN(text.len, (size_t)64), text.p);
    *dst_has = true;
    return 0;
}

static int read_int(const struct reader *r, enum field f, struct json_val v, int64_t *dst)
{
    int64_t n = 0;

    if (v.kind != JSON_K_NULL && (json_i64(v, &n) || n < 0 || n > INT32_MAX))
        return poison_kind(r, f, "a small whole number");
    *dst = n;
    return 0;
}

/* Truth as Python sees it. */
static enum tristate read_truth(struct json_val v)
{
    double number;

    switch (v.kind) {
    case JSON_K_NONE:
    case JSON_K_NULL:
        return TRI_UNSET;
    case JSON_K_FALSE:
        return TRI_NO;
    case JSON_K_STRING:
        return v.raw.len > 2 ? TRI_YES : TRI_NO;
    case JSON_K_ARRAY:
    case JSON_K_OBJECT:
        return json_len(v) ? TRI_YES : TRI_NO;
    case JSON_K_INT:
    case JSON_K_FLOAT:
        return json_f64(v, &number) == 0 && number == 0 ? TRI_NO : TRI_YES;
    default:
        return TRI_YES;
    }
}

static bool read_seconds(struct json_val v, double *ret_s)
{
    *ret_s = 0;
    if (json_is_null(v) || v.kind == JSON_K_FALSE)
        return true;
    return json_f64(v, ret_s) == 0 && isfinite(*ret_s) && *ret_s >= 0;
}

/* [hard, soft]; each null or a number of seconds. */
static int read_timelimit(const struct reader *r, struct json_val v)
{
    struct message *m = r->m;

    m->time_limit_s = m->soft_time_limit_s = 0;
    if (v.kind == JSON_K_NULL || (v.kind == JSON_K_ARRAY && json_len(v) == 0))
        return 0;
    if (v.kind == JSON_K_ARRAY && json_len(v) == 2 &&
        read_seconds(json_at(v, 0), &m->time_limit_s) &&
        read_seconds(json_at(v, 1), &m->soft_time_limit_s))
        return 0;
    m->time_limit_s = m->soft_time_limit_s = 0;
    return poison_kind(r, FIELD_TIMELIMIT, "[hard, soft] in seconds");
}

static int read_field(const struct reader *r, enum field f, struct json_val v)
{
    struct message *m = r->m;

    switch (f) {
    case FIELD_TASK:
        return read_text(r, f, v, false, &m->task);
    case FIELD_ID:
        return read_text(r, f, v, true, &m->id);
    case FIELD_SHADOW:
        return read_text(r, f, v, false, &m->shadow);
    case FIELD_ETA:
        m->eta_raw = v;
        return read_time(r, f, v, &m->has_eta, &m->eta_us);
    case FIELD_EXPIRES:
        m->expires_raw = v;
        return read_time(r, f, v, &m->has_expires, &m->expires_us);
    case FIELD_GROUP:
        return read_text(r, f, v, true, &m->group);
    case FIELD_GROUP_INDEX:
        m->group_index = v;
        return 0;
    case FIELD_RETRIES:
        return read_int(r, f, v, &m->retries);
    case FIELD_TIMELIMIT:
        return read_timelimit(r, v);
    case FIELD_ROOT_ID:
        return read_text(r, f, v, true, &m->root_id);
    case FIELD_PARENT_ID:
        return read_text(r, f, v, true, &m->parent_id);
    case FIELD_ARGSREPR:
        return read_text(r, f, v, false, &m->argsrepr);
    case FIELD_KWARGSREPR:
        return read_text(r, f, v, false, &m->kwargsrepr);
    case FIELD_ORIGIN:
        return read_text(r, f, v, false, &m->origin);
    case FIELD_IGNORE_RESULT:
        m->ignore_result = read_truth(v);
        return 0;
    case FIELD_NESTING:
        return read_int(r, f, v, &m->replaced_task_nesting);
    case FIELD_COMPRESSION:
        return read_text(r, f, v, false, &m->compression);
    default:
        return 0;
    }
}

/* The field of that name, looked for from `from` on; FIELD_COUNT when it is none of ours. */
static unsigned find_field(struct json_val key, unsigned from)
{
    for (unsigned i = 0; i < FIELD_COUNT; i++, from++) {
        if (from >= FIELD_COUNT)
            from -= FIELD_COUNT;
        if (json_key_is(key, fields[from].name))
            return from;
    }
    return FIELD_COUNT;
}

int message_read_fields(struct arena *a, const struct json_tape *t, struct json_val object,
                        bool protocol1, struct message *m, struct err *e)
{
    struct reader r = {a, m, e};
    struct json_members it;
    unsigned next = 0;
    int first = 0;

    json_members_init(&it, t, object);
    while (json_members_next(&it)) {
        unsigned f = find_field(it.key, next);
        int code;

        if (f == FIELD_COUNT || (protocol1 && fields[f].not_in_protocol1))
            continue;
        next = f + 1;
        code = read_field(&r, (enum field)f, it.val);
        if (code == -ENOMEM)
            return code;
        if (code && !first)
            first = code;
    }
    return first;
}
