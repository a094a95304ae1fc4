/* SPDX-License-Identifier: Apache-2.0 */
/* Small changes to a message that is passed on. Marked as redelivered, as kombu does when it puts one back:
 * headers.redelivered and properties.delivery_info.redelivered become true. Forwarded: the number of times stands in a
 * property, which Celery ignores and, unlike a header, does not copy to a retry. Everything else stays byte for byte; only
 * pieces of text are inserted or replaced, nothing is decoded. */

#include "celeryc/message/json_priv.h"

#include "celeryc/message/message.h"

#include <errno.h>

#define BOUNCES "celeryc_bounces"

/* Copies an object with a member in it: over the value that is there, else at the end as Python would insert it. */
static void write_with(struct buf *dst, struct json_val object, const char *key, const char *value)
{
    const char *done = object.raw.p, *last = object.raw.p + object.raw.len - 1;
    struct json_iter it;
    bool found = false, empty = true;

    for (json_iter_init(&it, object); json_next(&it); empty = false) {
        if (!json_key_is(it.key, slice_str(key)))
            continue;
        buf_append(dst, done, (size_t)(it.val.raw.p - done));
        buf_append_str(dst, value);
        done = it.val.raw.p + it.val.raw.len;
        found = true;
    }
    buf_append(dst, done, (size_t)(last - done));
    if (!found)
        buf_appendf(dst, "%s\"%s\": %s", empty ? "" : ", ", key, value);
    buf_append_char(dst, '}');
}

/* Copies text up to the object, then the object flagged; returns where to go on. */
static const char *flag_at(struct buf *dst, const char *from, struct json_val object)
{
    buf_append(dst, from, (size_t)(object.raw.p - from));
    write_with(dst, object, "redelivered", "true");
    return object.raw.p + object.raw.len;
}

int message_write_redelivered(struct buf *dst, struct slice raw)
{
    struct json_val envelope, headers, info;
    const char *done = raw.p;
    bool info_first;

    if (json_scan(raw, &envelope, NULL) == 0) {
        headers = json_get(envelope, "headers");
        info = json_get(json_get(envelope, "properties"), "delivery_info");
        info_first = info.kind == JSON_K_OBJECT && headers.kind == JSON_K_OBJECT &&
                     info.raw.p < headers.raw.p;
        if (info_first)
            done = flag_at(dst, done, info);
        if (headers.kind == JSON_K_OBJECT)
            done = flag_at(dst, done, headers);
        if (info.kind == JSON_K_OBJECT && !info_first)
            done = flag_at(dst, done, info);
    }
    buf_append(dst, done, (size_t)(raw.p + raw.len - done));
    return buf_ok(dst);
}

int64_t message_bounces(const struct message *m)
{
    int64_t n = 0;
    return json_i64(json_get(m->properties, BOUNCES), &n) || n < 0 ? 0 : n;
}

int message_write_bounced(struct buf *dst, const struct message *m, int64_t n)
{
    struct json_val p = m->properties;
    char text[24];

    if (p.kind != JSON_K_OBJECT)
        return -EINVAL;
    (void)snprintf(text, sizeof(text), "%lld", (long long)n);
    buf_append(dst, m->raw.p, (size_t)(p.raw.p - m->raw.p));
    write_with(dst, p, BOUNCES, text);
    const char *rest = p.raw.p + p.raw.len;
    buf_append(dst, rest, (size_t)(m->raw.p + m->raw.len - rest));
    return buf_ok(dst);
}
