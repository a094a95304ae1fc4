/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The format of ~/.aws/config and ~/.aws/credentials. */

#include "celeryc/base/arena.h"
#include "celeryc/base/err.h"

struct aws_ini_entry {
    const char *section; /* "profile x": one space, no quotes */
    const char *
        key; /* lower case; of a nested setting "s3.addressing_style"; NULL: only says that there is a section */
    const char *value;
};

struct aws_ini {
    struct arena *arena;
    struct aws_ini_entry *entries;
    size_t n, cap;
};

/* 0; -EINVAL with the line's number but nothing of its text, which may be a secret; -E2BIG, -ENOMEM.
 * *ini is set to what aws_ini_deinit takes in any case. */
int aws_ini_parse(struct slice text, struct aws_ini *ini, struct err *e) WARN_UNUSED;
void aws_ini_deinit(struct aws_ini *ini);
DEFINE_CLEANUP_VALUE(struct aws_ini, aws_ini_deinit)

bool aws_ini_has(const struct aws_ini *ini, const char *section);
/* The value, the last one when it is given twice; NULL when absent or empty. */
const char *aws_ini_get(const struct aws_ini *ini, const char *section, const char *key);
