/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The key of a table: one column, or several joined by commas ("region,number").
 *
 * The values of a key are told to people, and kept in the control tables, as one text: the value itself, or a JSON array
 * of texts for a key of several columns. Python's json.dumps(values, ensure_ascii=False) writes the same. */

#include "celeryc/base/buf.h"
#include "celeryc/base/limits.h"

struct key {
    size_t n;
    struct slice column[LIMIT_KEY_COLUMNS]; /* borrowed from the text */
};

/* 0; -EINVAL: an empty or repeated name, or more than LIMIT_KEY_COLUMNS. Blanks around a name do not count. */
int key_parse(const char *text, struct key *ret_k) WARN_UNUSED;
/* How many columns the text names, at least 1. */
size_t key_width(const char *text);
/* Does the key have a column of this name? */
bool key_find(const char *text, const char *name, size_t *ret_i);
/* Appends the key's values as one text. */
void key_write(struct buf *dst, const struct slice *values, size_t n);
