/* SPDX-License-Identifier: Apache-2.0 */
/* Formats at rest. Whoever changes one raises its version and keeps a reader for the one before. */

#include "celeryc/transport/stored.h"

#include "celeryc/base/codec.h"

#include <errno.h>

static int take_text(struct arena *a, struct json_val entry, const char *key, struct slice *ret_s,
                     struct err *e)
{
    int r = json_string_z(a, json_get(entry, key), ret_s);
    return r == -EINVAL ? err_set(e, r, "\"%s\" is no text", key) : r;
}

int dead_entry_parse(struct arena *a, struct slice text, struct dead_entry *ret_d, struct err *e)
{
    struct json_val v;
    struct dead_entry d;
    struct slice raw;
    int64_t version = 0;
    int r = json_scan(text, &v, e);
    if (r)
        return r == -ENOMEM ? r : -EINVAL;
    if (json_i64(json_get(v, "v"), &version))
        return err_set(e, -EINVAL, "it has no version");
    if (version != DEAD_VERSION)
        return err_set(e, STORED_E_VERSION, "it is of format %lld", (long long)version);
    r = take_text(a, v, "reason", &d.reason, e);
    if (r == 0)
        r = take_text(a, v, "time", &d.time, e);
    if (r == 0)
        r = take_text(a, v, "queue", &d.queue, e);
    if (r == 0)
        r = take_text(a, v, "raw", &raw, e);
    if (r)
        return r;
    char *bytes = arena_alloc(a, BASE64_DECODED_MAX(raw.len));
    size_t len;
    if (!bytes)
        return -ENOMEM;
    if (base64_decode_to(bytes, raw, false, &len))
        return err_set(e, -EINVAL, "\"raw\" is no base64");
    d.raw = (struct slice){bytes, len};
    *ret_d = d;
    return 0;
}

void stored_deaths_key(struct buf *dst, const char *prefix, struct slice id)
{
    buf_append_str(dst, prefix);
    buf_append_str(dst, "celeryc:deaths:");
    buf_append(dst, id.p, MIN(id.len, STORED_ID_BYTES));
}
