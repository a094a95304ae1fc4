/* SPDX-License-Identifier: Apache-2.0 */
/* kombu's typed values, {"__type__": "bytes", "__value__": "..."}: what JSON has no form of its own for. A third key
 * makes it an ordinary object (kombu/utils/json.py). */

#include "celeryc/base/codec.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/utf8_priv.h"
#include "celeryc/message/wire_priv.h"

#include <errno.h>

bool json_typed(struct json_val v, struct json_val *ret_type, struct json_val *ret_value)
{
    struct json_val type = {0}, value = {0};
    struct json_iter it;
    size_t n = 0;

    if (v.kind != JSON_K_OBJECT)
        return false;
    for (json_iter_init(&it, v); json_next(&it); n++) {
        if (n == 2)
            return false;
        if (json_key_is(it.key, SLICE_LIT("__type__")))
            type = it.val;
        else if (json_key_is(it.key, SLICE_LIT("__value__")))
            value = it.val;
    }
    if (type.kind == JSON_K_NONE || value.kind == JSON_K_NONE)
        return false;
    *ret_type = type;
    *ret_value = value;
    return true;
}

static bool is_utf8(struct slice s)
{
    uint32_t c;

    for (size_t i = 0; i < s.len;) {
        size_t n = utf8_decode(s.p + i, s.p + s.len, false, &c);

        if (n == 0)
            return false;
        i += n;
    }
    return true;
}

int json_typed_bytes(struct arena *a, struct json_val type, struct json_val value, bool *ret_is,
                     struct slice *ret_s)
{
    bool base64 = slice_eq_str(type.raw, "\"base64\"");
    struct slice text;
    size_t len;
    char *dst;
    int r;

    *ret_is = base64 || slice_eq_str(type.raw, "\"bytes\"");
    if (!*ret_is)
        return 0;
    r = json_string(a, value, &text);
    if (r)
        return r;
    if (!base64) {
        *ret_s = text;
        return is_utf8(text) ? 0 : -EINVAL;
    }
    dst = arena_alloc(a, BASE64_DECODED_MAX(text.len));
    if (!dst)
        return -ENOMEM;
    if (base64_decode_to(dst, text, true, &len))
        return -EINVAL;
    *ret_s = (struct slice){dst, len};
    return 0;
}

void json_write_bytes(struct buf *dst, struct slice bytes)
{
    if (is_utf8(bytes)) {
        buf_append_str(dst, "{\"__type__\": \"bytes\", \"__value__\": ");
        json_write_string(dst, bytes.p ? bytes : SLICE_LIT(""));
        buf_append_char(dst, '}');
        return;
    }
    buf_append_str(dst, "{\"__type__\": \"base64\", \"__value__\": \"");
    base64_encode(dst, bytes);
    buf_append_str(dst, "\"}");
}
