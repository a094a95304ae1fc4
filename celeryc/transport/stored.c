/* SPDX-License-Identifier: Apache-2.0 */
/* Formats at rest. Whoever changes one raises its version and keeps a reader for the one before. */

#include "celeryc/transport/stored.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/transport/stored_priv.h"

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

int dead_entry_write(struct buf *dst, struct slice queue, struct slice raw, const char *reason)
{
    char now[CLOCK_ISO_SIZE];
    clock_iso_format(clock_wall_us(), now);
    buf_appendf(dst, "{\"v\": %d, \"reason\": ", DEAD_VERSION);
    json_write_string(dst, slice_str(reason));
    buf_appendf(dst, ", \"time\": \"%s\", \"queue\": ", now);
    json_write_string(dst, queue);
    buf_append_str(dst, ", \"raw\": \"");
    base64_encode(dst, raw);
    buf_append_str(dst, "\"}");
    return buf_ok(dst);
}

int stored_split(struct slice value, struct slice *ret_raw, struct slice *ret_tail)
{
    static const char mark[] = ", \"\", \"";
    size_t len = sizeof(mark) - 1;
    if (value.len < len + 3 || value.p[0] != '[' || value.p[value.len - 1] != ']')
        return -EINVAL;
    /* The name is a JSON string without a bare quote, so the last mark is the right one. */
    for (size_t at = value.len - len; at > 0; at--) {
        if (memcmp(value.p + at, mark, len) != 0)
            continue;
        *ret_raw = (struct slice){value.p + 1, at - 1};
        *ret_tail = (struct slice){value.p + at, value.len - at};
        return 0;
    }
    return -EINVAL;
}

void stored_deaths_key(struct buf *dst, const char *prefix, struct slice id)
{
    buf_append_str(dst, prefix);
    buf_append_str(dst, "celeryc:deaths:");
    buf_append(dst, id.p, MIN(id.len, STORED_ID_BYTES));
}

/* ---- delayed messages ---- */

#define DELAYED_HEAD                                                                        \
    "local A, call, pcall_ = ARGV, redis.call, redis.pcall\n"                               \
    "local DELAYED = A[1]\n" DELAYED_LUA "local out, o = {}, 0\n"                           \
    "local function add(name, due)\n"                                                       \
    "  local list, raw = delayed(name)\n"                                                   \
    "  out[o + 1], out[o + 2], out[o + 3], out[o + 4] = name, due, list or '', raw or ''\n" \
    "  o = o + 4\n"                                                                         \
    "  return raw and #raw or 0\n"                                                          \
    "end\n"

const struct redis_script stored_delayed_page = {
    "delayed_page",
    DELAYED_HEAD "local due = call('ZRANGE', DELAYED, A[2], A[2] + A[3] - 1, 'WITHSCORES')\n"
                 "local budget = tonumber(A[4])\n"
                 "for i = 1, #due, 2 do\n"
                 "  budget = budget - add(due[i], due[i + 1])\n"
                 "  if budget <= 0 then break end\n"
                 "end\n"
                 "return out\n",
};

const struct redis_script stored_delayed_find = {
    "delayed_find",
    DELAYED_HEAD "for i = 2, #A do\n"
                 "  local due = call('ZSCORE', DELAYED, A[i])\n"
                 "  if due then add(A[i], due) end\n"
                 "end\n"
                 "return out\n",
};

const struct redis_script stored_delayed_flush = {
    "delayed_flush",
    DELAYED_HEAD "local budget, moved, names = tonumber(A[3]), 0, {}\n"
                 "for i = 4, #A do\n"
                 "  if call('ZSCORE', DELAYED, A[i]) then names[#names + 1] = A[i] end\n"
                 "end\n"
                 "if not A[4] then names = call('ZRANGE', DELAYED, 0, A[2] - 1) end\n"
                 "for i = 1, #names do\n"
                 "  local list, raw = delayed(names[i])\n"
                 "  if list and type(pcall_('LPUSH', list, raw)) == 'number' then\n"
                 "    undelay(names[i])\n"
                 "    moved, budget = moved + 1, budget - #raw\n"
                 "  end\n"
                 "  if budget <= 0 then break end\n"
                 "end\n"
                 "return moved\n",
};
