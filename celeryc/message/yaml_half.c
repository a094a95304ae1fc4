/* SPDX-License-Identifier: Apache-2.0 */
/* Half surrogate pairs in YAML. PyYAML writes one as "\ud83d" and reads it; libyaml refuses it. So before libyaml sees the
 * text, \ud83d becomes the character U+10D83D, of a private plane, as \U0010d83d; and in what libyaml gives the way
 * back is taken: the character in quoted scalars, the escape itself in scalars that know no escapes. A text that uses
 * these very characters as well is refused. */

#include "celeryc/message/yaml_priv.h"

#include <ctype.h>
#include <errno.h>

#define ESCAPE_LEN 6 /* \ud83d */
#define LONG_LEN   10

/* "d83d": a surrogate. */
static bool is_half(const char *p)
{
    return (p[0] | 0x20) == 'd' && isxdigit((unsigned char)p[1]) && p[1] >= '8' &&
           isxdigit((unsigned char)p[2]) && isxdigit((unsigned char)p[3]);
}

static bool is_escape(const char *p, const char *end)
{
    return end - p >= ESCAPE_LEN && p[1] == 'u' && is_half(p + 2);
}

static bool is_long_escape(const char *p, const char *end)
{
    return end - p >= LONG_LEN && memcmp(p + 1, "U0010", 5) == 0 && is_half(p + 6);
}

/* U+10D800 to U+10DFFF */
static bool is_stand_in(const char *p, const char *end)
{
    return end - p >= 4 && memcmp(p, "\xf4\x8d", 2) == 0 && (unsigned char)p[2] >= 0xa0;
}

bool yaml_has_half(struct slice src)
{
    const char *end = src.p + src.len;

    for (const char *p = src.p; p && p < end && (p = memchr(p, '\\', (size_t)(end - p))); p += 2) {
        if (is_escape(p, end))
            return true;
    }
    return false;
}

int yaml_hide_halves(struct buf *dst, struct slice src, struct err *e)
{
    const char *end = src.p + src.len;

    for (const char *p = src.p; p < end; p++) {
        if (is_stand_in(p, end) || (*p == '\\' && is_long_escape(p, end)))
            return err_set(e, -EINVAL,
                           "yaml: half surrogate pairs beside characters of U+10D800 and above");
        if (*p != '\\' || p + 1 == end) {
            buf_append_char(dst, *p);
        } else if (is_escape(p, end)) {
            buf_append_str(dst, "\\U0010");
            buf_append(dst, p + 2, 4);
            p += ESCAPE_LEN - 1;
        } else {
            buf_append(dst, p++, 2);
        }
    }
    return buf_ok(dst);
}

int yaml_show_halves(struct buf *dst, struct slice text, bool escapes)
{
    const char *end = text.p + text.len;

    for (const char *p = text.p; p < end; p++) {
        if (escapes && is_stand_in(p, end)) {
            buf_append_char(dst, (char)0xed);
            buf_append(dst, p + 2, 2);
            p += 3;
        } else if (escapes || *p != '\\' || p + 1 == end) {
            buf_append_char(dst, *p);
        } else if (is_long_escape(p, end)) {
            buf_append_str(dst, "\\u");
            buf_append(dst, p + 6, 4);
            p += LONG_LEN - 1;
        } else {
            buf_append(dst, p++, 2);
        }
    }
    return buf_ok(dst);
}
