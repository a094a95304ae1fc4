/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes: what the scanner takes can be walked, shown and written; the normal form is stable. */

#include "celeryc/message/json.h"
#include "fuzz.h"

static void walk(struct arena *a, struct json_val v)
{
    struct json_iter it;
    struct slice s;
    int64_t i;
    double d;

    (void)!json_i64(v, &i);
    (void)!json_f64(v, &d);
    (void)json_len(v);
    if (v.kind == JSON_K_STRING)
        ASSERT(json_string_z(a, v, &s) == 0 && s.p[s.len] == '\0');
    for (json_iter_init(&it, v); json_next(&it);) {
        if (it.object)
            walk(a, it.key);
        walk(a, it.val);
    }
}

static void write_and_read(struct json_val v)
{
    CLEANUP(buf_deinit) struct buf once = BUF_INIT;
    CLEANUP(buf_deinit) struct buf twice = BUF_INIT;
    CLEANUP(buf_deinit) struct buf shown = BUF_INIT;
    struct json_val again;

    json_write_normal(&once, v);
    ASSERT(json_scan(buf_slice(&once), &again, NULL) == 0);
    ASSERT(again.kind == v.kind);
    json_write_normal(&twice, again);
    ASSERT(slice_eq(buf_slice(&once), buf_slice(&twice)));
    json_write_python(&shown, v);
    for (size_t limit = 0; limit < 60; limit += 7)
        json_write_repr(&shown, v, limit % 2, limit);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    struct slice bytes = {(const char *)data, size};
    struct json_val v, string;
    struct err e = ERR_INIT;

    if (json_scan(bytes, &v, &e) == 0) {
        walk(a, v);
        write_and_read(v);
    } else {
        ASSERT(e.text[0]);
    }
    json_write_string(&text, bytes);
    ASSERT(json_scan(buf_slice(&text), &string, NULL) == 0);
    ASSERT(string.kind == JSON_K_STRING);
    return 0;
}
