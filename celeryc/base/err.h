/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Error text for people, set where a failure is first seen; the return code stays the program's. */

#include "celeryc/base/util.h"

#include <stdarg.h>
#include <stdbool.h>

/* A fallible function returns 0, -Exxx (pass up unchanged) or a positive X_E_ code (handled by the caller). */
struct err {
    char text[1024];
};

#define ERR_INIT   \
    (struct err)   \
    {              \
        .text = "" \
    }

void err_write(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);
void err_write_prefix(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

static inline int err_code(int code)
{
    return code;
}

/* int err_set(struct err *e, int code, const char *fmt, ...): sets the text (cut at the buffer) and gives code, so that
 * `return err_set(e, -EINVAL, ...)` reads well. The first text wins: a later err_set on the same struct keeps it. e may
 * be NULL. A macro, so that compilers and analysers see that the code is the one given. */
#define err_set(e, code, ...) (err_write((e), __VA_ARGS__), err_code(code))

/* int err_prefix(struct err *e, int code, const char *fmt, ...): puts "fmt: " in front of the text that is there (or
 * sets it when there is none). Gives code. */
#define err_prefix(e, code, ...) (err_write_prefix((e), __VA_ARGS__), err_code(code))

/* The text, or the errno text of code when nobody set one. Valid as long as e. Never NULL. */
const char *err_text(struct err *e, int code);

/* Thread-safe text of an errno value (positive or negative). Static storage for each thread. */
const char *err_errno(int code);
