/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the YAML files share. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

#define YAML_TAG "tag:yaml.org,2002:"

/* ---- half surrogate pairs ---- */

bool yaml_has_half(struct slice src);
/* src without escapes of them, for libyaml. 0, -ENOMEM, -EINVAL. */
int yaml_hide_halves(struct buf *dst, struct slice src, struct err *e) WARN_UNUSED;
/* A scalar of such a text as it was; escapes: it is of a style that has them. 0, -ENOMEM. */
int yaml_show_halves(struct buf *dst, struct slice text, bool escapes) WARN_UNUSED;

/* ---- scalars ---- */

enum yaml_type {
    YAML_T_STR,
    YAML_T_NULL,
    YAML_T_BOOL,
    YAML_T_INT,
    YAML_T_FLOAT,
    YAML_T_TIMESTAMP,
    YAML_T_BINARY,
    YAML_T_MERGE, /* << */
    YAML_T_VALUE, /* = */
};

/* The type that a plain scalar without a tag has by its text: YAML 1.1 as PyYAML resolves it. */
enum yaml_type yaml_resolve(struct slice text);

/* Appends the JSON text of a scalar; key: as a key of an object, which is always a string. 0, -ENOMEM, -EINVAL. */
int yaml_write_scalar(struct buf *dst, enum yaml_type type, struct slice text, bool key,
                      struct err *e) WARN_UNUSED;
