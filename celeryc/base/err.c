/* SPDX-License-Identifier: Apache-2.0 */
/* The text that goes with an error code. It owns nothing: the text lives in the caller's struct. A cut text must
 * never end inside nothing readable, so it is cut by bytes and always NUL-terminated. */

#include "celeryc/base/err.h"

#include <errno.h>
#include <string.h>

#define ERRNO_TEXT_SIZE 128

void err_write(struct err *e, const char *fmt, ...)
{
    va_list ap;

    if (!e || e->text[0])
        return;
    va_start(ap, fmt);
    (void)vsnprintf(e->text, sizeof(e->text), fmt, ap);
    va_end(ap);
}

void err_write_prefix(struct err *e, const char *fmt, ...)
{
    char old[sizeof(e->text)];
    va_list ap;
    size_t len;

    if (!e)
        return;
    memcpy(old, e->text, sizeof(old));
    va_start(ap, fmt);
    (void)vsnprintf(e->text, sizeof(e->text), fmt, ap);
    va_end(ap);
    if (old[0]) {
        len = strlen(e->text);
        (void)snprintf(e->text + len, sizeof(e->text) - len, ": %s", old);
    }
}

const char *err_text(struct err *e, int code)
{
    return e && e->text[0] ? e->text : err_errno(code);
}

const char *err_errno(int code)
{
    static _Thread_local char text[ERRNO_TEXT_SIZE];

    if (code == 0)
        return "no error";
    /* The GNU form: it may give a constant string instead of filling the buffer. */
    return strerror_r(code < 0 ? -code : code, text, sizeof(text));
}
