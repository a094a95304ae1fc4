/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* JSON objects to structs and back by tables: the configuration, the state and the cases of --replay are read and
 * written by these alone, and the help is printed from them. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"
#include "celeryc/message/json.h"

#include <stdint.h>

enum field_kind {
    FIELD_INT,  /* int64_t */
    FIELD_NUM,  /* double */
    FIELD_BOOL, /* bool */
    FIELD_WORD, /* an enum (int): place in words */
    FIELD_TIME, /* int64_t, seconds; null or absent: DECIDE_NEVER */
    FIELD_TEXT, /* char *, owned; not empty */
    FIELD_LIST, /* struct strv of texts, at most max */
};

struct field {
    const char *name;
    enum field_kind kind;
    size_t offset;
    double min, max;
    const char *const *words; /* ends with NULL */
    const char *help;         /* NULL: none */
};

#define FIELD_COUNT_MAX 1e9  /* of anything that is counted */
#define FIELD_TIME_MAX  1e11 /* seconds since 1970 */

const struct field *field_find(const struct field *table, struct slice name);

/* 0; -EINVAL with a text that names the field and what is expected. */
int field_set(const struct field *f, void *target, struct json_val v, struct err *e) WARN_UNUSED;

/* Every member of an object; one that the table does not have is an error that names the nearest. */
int fields_read(const struct field *table, void *target, struct json_val object,
                struct err *e) WARN_UNUSED;

/* Frees the texts and lists. */
void fields_clear(const struct field *table, void *target);

void field_write(struct buf *dst, const struct field *f, const void *target);
/* "a": 1, "b": null, ...: the members of an object, without braces. */
void fields_write(struct buf *dst, const struct field *table, const void *target);
