/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Test data made by tools/message_vectors.py: one JSON value a line. */

#include "celeryc/message/json.h"

struct vectors {
    struct buf text;
    size_t pos;
    struct arena *arena; /* holds the strings of the current line */
};

/* Opens tests/data/message/<name>; aborts the test when it cannot. */
void vectors_open(struct vectors *v, const char *name);
bool vectors_next(struct vectors *v, struct json_val *ret_line);
void vectors_close(struct vectors *v);

/* A string member of the line; p NULL when absent. */
struct slice vectors_text(struct vectors *v, struct json_val line, const char *key);
int64_t vectors_int(struct json_val line, const char *key); /* 0 when absent */
double vectors_float(struct json_val line, const char *key);

/* Writes zeros over the value of "delivery_tag", which differs from run to run. */
void vectors_hide_tag(struct buf *envelope);
