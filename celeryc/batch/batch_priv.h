/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the files of this folder share: text checks and the JSON of small objects. */

#include "celeryc/batch/batch.h"
#include "celeryc/message/json.h"

/* Strict UTF-8 (no surrogates, nothing over U+10FFFF, shortest form) without NUL bytes. */
bool text_valid(struct slice s);
/* Length of the longest prefix of plain JSON string bytes: no quote, backslash, control byte or byte over 0x7f. */
size_t text_plain(const char *p, size_t len);
/* Length of the valid UTF-8 sequence at p (1-4), 0 when there is none. len > 0. */
size_t text_sequence(const char *p, size_t len);
/* Length of the JSON number at p, 0 when there is none. */
size_t text_number(const char *p, size_t len);
/* Appends a JSON string in UTF-8; s must be valid. */
void text_write(struct buf *dst, struct slice s);

/* Members of a scanned object as text of their own (freed by the caller). what names the object in the error text.
 * 0; -EBADMSG with the defect in e; -ENOMEM. */
struct member {
    struct json_val object;
    struct arena *arena;
    const char *what;
    struct err *err;
};

/* A string; a missing or null one gives NULL when optional. */
int member_string(const struct member *m, const char *key, bool optional,
                  char **ret_text) WARN_UNUSED;
/* An integer from min to max; a missing or null one gives 0 when optional. */
int member_int(const struct member *m, const char *key, bool optional, int64_t min, int64_t max,
               int64_t *ret_v) WARN_UNUSED;
/* An array of at most LIMIT_COLUMNS different strings (may_null: entries may be null, and equal). */
int member_strings(const struct member *m, const char *key, bool may_null, char ***ret_texts,
                   size_t *ret_n) WARN_UNUSED;
int member_format(const struct member *m) WARN_UNUSED; /* "format" is one that we read */
char **strings_free(char **texts, size_t n);

/* The header line without its line feed. */
int header_parse(struct slice line, struct batch_header *ret_h, struct err *e) WARN_UNUSED;
void header_write(struct buf *dst, const struct batch_header *h, size_t count);
