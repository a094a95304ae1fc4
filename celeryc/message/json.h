/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* JSON as Python writes and reads it, kept as slices of the original bytes.
 *
 * json_scan validates once (syntax, UTF-8, depth <= LIMIT_JSON_DEPTH); everything else walks text that has been
 * validated and cannot fail on syntax. Big integers, NaN, Infinity, 1.0 and typed wrappers survive because nobody
 * re-encodes them. Extensions over RFC 8259, as in Python's json: NaN, Infinity, -Infinity; lone surrogates.
 * What we write follows json.dumps: separators ", " and ": ", ASCII only, lower-case \uXXXX. */

#include "celeryc/base/arena.h"
#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

enum json_kind {
    JSON_K_NONE, /* absent: what json_get gives when there is no such key */
    JSON_K_NULL,
    JSON_K_TRUE,
    JSON_K_FALSE,
    JSON_K_INT,   /* digits only, any size */
    JSON_K_FLOAT, /* has '.', 'e' or is NaN / Infinity */
    JSON_K_STRING,
    JSON_K_ARRAY,
    JSON_K_OBJECT,
};

/* A value in place; raw is its exact text without surrounding white space. Borrows the scanned text. */
struct json_val {
    enum json_kind kind;
    struct slice raw;
};

/* Whole text is one value (white space around it allowed). 0; -EINVAL with position in e; -E2BIG too deep. */
int json_scan(struct slice text, struct json_val *ret_val, struct err *e) WARN_UNUSED;

/* Absent or null. */
static inline bool json_is_null(struct json_val v)
{
    return v.kind == JSON_K_NONE || v.kind == JSON_K_NULL;
}

/* Walks an array or object: json_iter_init(&it, v); while (json_next(&it)) use it.key (objects) and it.val. */
struct json_iter {
    struct slice rest;
    struct json_val key; /* JSON_K_STRING for objects, JSON_K_NONE for arrays */
    struct json_val val;
    bool object;
};

void json_iter_init(struct json_iter *it, struct json_val v); /* v of another kind: no elements */
bool json_next(struct json_iter *it);

/* The value of a key (the last one wins, as in Python), JSON_K_NONE when absent or v is no object. */
struct json_val json_get(struct json_val v, const char *key);
struct json_val json_at(struct json_val v,
                        size_t index); /* array element, JSON_K_NONE past the end */
size_t json_len(struct json_val v);    /* elements or members */

/* Decoded UTF-8 of a string value (lone surrogates as three bytes, WTF-8). A string without escapes is borrowed from
 * the scanned text, so the result is NOT NUL-terminated; only escapes cost a copy in the arena.
 * 0, -EINVAL not a string, -ENOMEM. */
int json_string(struct arena *a, struct json_val v, struct slice *ret_s) WARN_UNUSED;

/* The same, always a copy in the arena with a NUL behind it (.len still tells the truth: \u0000 is possible). */
int json_string_z(struct arena *a, struct json_val v, struct slice *ret_s) WARN_UNUSED;
int json_i64(struct json_val v, int64_t *ret_v) WARN_UNUSED; /* -EINVAL no int, -ERANGE too big */
int json_f64(struct json_val v, double *ret_v) WARN_UNUSED;  /* any number; NaN, inf possible */

/* Writers. utf8 may be any bytes: invalid sequences become U+FFFD. */
void json_write_string(struct buf *dst, struct slice utf8);
void json_write_string_or_null(struct buf *dst, struct slice utf8); /* null when utf8.p is NULL */
void json_write_i64(struct buf *dst, int64_t v);
void json_write_f64(struct buf *dst,
                    double v); /* shortest repr, as float.__repr__: 1.0, 1e+22, NaN */

/* Copies v with Python's separators and escapes, values untouched (numbers and markers verbatim). For what must be
 * byte-identical to json.dumps(json.loads(v)) when v came from another writer. */
void json_write_normal(struct buf *dst, struct json_val v);

/* What Celery shows of a value in argsrepr, kwargsrepr and log lines (saferepr): Python literals, three levels deep, cut
 * with "..." near max_chars characters. tuple: an outer array is written with round brackets, as argsrepr is. */
void json_write_repr(struct buf *dst, struct json_val v, bool tuple, size_t max_chars);

/* Python's true repr() of a value, uncut: {'a': 1, 'b': [True, None]}, "it's". */
void json_write_python(struct buf *dst, struct json_val v);
