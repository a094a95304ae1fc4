/* SPDX-License-Identifier: Apache-2.0 */
/* Reading members of a scanned JSON object with clear defects. Owns nothing; what it returns belongs to the caller. */

#include "celeryc/base/limits.h"
#include "celeryc/batch/batch_priv.h"

#include <errno.h>

static int bad(const struct member *m, const char *key, const char *what)
{
    return err_set(m->err, -EBADMSG, "%s: \"%s\" %s", m->what, key, what);
}

static int text_of(const struct member *m, const char *key, struct json_val v, char **ret_text)
{
    struct slice s;
    int code = json_string(m->arena, v, &s);

    if (code == -ENOMEM)
        return code;
    if (code)
        return bad(m, key, "is not a string");
    if (!text_valid(s))
        return bad(m, key, "holds a NUL character or half of a surrogate pair");
    *ret_text = slice_dup(s);
    return *ret_text ? 0 : -ENOMEM;
}

int member_string(const struct member *m, const char *key, bool optional, char **ret_text)
{
    struct json_val v = json_get(m->object, key);

    if (json_is_null(v)) {
        if (!optional)
            return bad(m, key, "is missing");
        *ret_text = NULL;
        return 0;
    }
    return text_of(m, key, v, ret_text);
}

int member_int(const struct member *m, const char *key, bool optional, int64_t min, int64_t max,
               int64_t *ret_v)
{
    struct json_val v = json_get(m->object, key);
    int64_t n = 0;

    if (json_is_null(v)) {
        if (!optional)
            return bad(m, key, "is missing");
        *ret_v = 0;
        return 0;
    }
    if (json_i64(v, &n))
        return bad(m, key, "is not an integer");
    if (n < min || n > max)
        return err_set(m->err, -EBADMSG, "%s: \"%s\" is %lld, not within %lld to %lld", m->what,
                       key, (long long)n, (long long)min, (long long)max);
    *ret_v = n;
    return 0;
}

char **strings_free(char **texts, size_t n)
{
    for (size_t i = 0; texts && i < n; i++)
        free(texts[i]);
    free(texts);
    return NULL;
}

static bool contains(char *const *texts, size_t n, const char *text)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq(texts[i], text))
            return true;
    return false;
}

static int strings_fill(const struct member *m, const char *key, struct json_val v, bool may_null,
                        char **texts)
{
    struct json_iter it;

    json_iter_init(&it, v);
    for (size_t i = 0; json_next(&it); i++) {
        char *text = NULL;
        int code;

        if (may_null && json_is_null(it.val))
            continue;
        code = text_of(m, key, it.val, &text);
        if (code || !text)
            return code;
        if (!may_null && (!*text || contains(texts, i, text))) {
            free(text);
            return bad(m, key, "holds an empty or repeated name");
        }
        texts[i] = text;
    }
    return 0;
}

int member_strings(const struct member *m, const char *key, bool may_null, char ***ret_texts,
                   size_t *ret_n)
{
    struct json_val v = json_get(m->object, key);
    size_t n;
    char **texts;
    int code;

    if (v.kind != JSON_K_ARRAY)
        return bad(m, key, "is not an array");
    n = json_len(v);
    if (n > LIMIT_COLUMNS)
        return bad(m, key, "has too many entries");
    texts = calloc(n + 1, sizeof(*texts));
    if (!texts)
        return -ENOMEM;
    code = strings_fill(m, key, v, may_null, texts);
    if (code) {
        strings_free(texts, n);
        return code;
    }
    *ret_texts = texts;
    *ret_n = n;
    return 0;
}

int member_format(const struct member *m)
{
    int64_t format = 0;
    int code = member_int(m, "format", false, 1, INT64_MAX, &format);

    if (code)
        return code;
    if (format > BATCH_FORMAT)
        return err_set(m->err, -EBADMSG,
                       "%s: format %lld is newer than this program reads (%d): upgrade it", m->what,
                       (long long)format, BATCH_FORMAT);
    return 0;
}
