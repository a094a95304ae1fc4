/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the test data. Everything here fails the running test instead of returning errors. */

#include "vectors.h"

#include <criterion/criterion.h>

#define TAG_KEY "\"delivery_tag\": \""
#define TAG_LEN 36

void vectors_open(struct vectors *v, const char *name)
{
    char path[4096], chunk[4096];
    FILE *f;
    size_t n;

    *v = (struct vectors){.text = BUF_INIT, .arena = arena_new()};
    (void)snprintf(path, sizeof(path), "%s/%s", TEST_DATA, name);
    f = fopen(path, "r");
    cr_assert(f, "cannot open %s", path);
    while ((n = fread(chunk, 1, sizeof(chunk), f)) > 0)
        buf_append(&v->text, chunk, n);
    (void)fclose(f);
    cr_assert(v->text.len > 0);
}

bool vectors_next(struct vectors *v, struct json_val *ret_line)
{
    const char *from = v->text.data + v->pos, *end;
    struct err e = ERR_INIT;

    arena_reset(v->arena);
    if (v->pos == v->text.len)
        return false;
    end = memchr(from, '\n', v->text.len - v->pos);
    cr_assert(end);
    v->pos = (size_t)(end + 1 - v->text.data);
    cr_assert_eq(json_scan((struct slice){from, (size_t)(end - from)}, ret_line, &e), 0, "%s",
                 e.text);
    return true;
}

void vectors_close(struct vectors *v)
{
    buf_deinit(&v->text);
    v->arena = arena_free(v->arena);
}

struct slice vectors_text(struct vectors *v, struct json_val line, const char *key)
{
    struct json_val val = json_get(line, key);
    struct slice s = SLICE_NULL;

    if (val.kind != JSON_K_NONE)
        cr_assert_eq(json_string(v->arena, val, &s), 0, "%s", key);
    return s;
}

int64_t vectors_int(struct json_val line, const char *key)
{
    struct json_val val = json_get(line, key);
    int64_t n = 0;

    if (val.kind != JSON_K_NONE)
        cr_assert_eq(json_i64(val, &n), 0, "%s", key);
    return n;
}

double vectors_float(struct json_val line, const char *key)
{
    struct json_val val = json_get(line, key);
    double d = 0;

    if (val.kind != JSON_K_NONE)
        cr_assert_eq(json_f64(val, &d), 0, "%s", key);
    return d;
}

void vectors_hide_tag(struct buf *envelope)
{
    char *p = memmem(envelope->data, envelope->len, TAG_KEY, strlen(TAG_KEY));

    cr_assert(p && (size_t)(envelope->data + envelope->len - p) > strlen(TAG_KEY) + TAG_LEN);
    memset(p + strlen(TAG_KEY), '0', TAG_LEN);
}
