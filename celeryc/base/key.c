/* SPDX-License-Identifier: Apache-2.0 */
#include "celeryc/base/key.h"

#include <errno.h>

static struct slice trimmed(const char *p, size_t len)
{
    while (len && *p == ' ')
        p++, len--;
    while (len && p[len - 1] == ' ')
        len--;
    return (struct slice){p, len};
}

size_t key_width(const char *text)
{
    size_t n = 1;

    for (; *text; text++)
        n += *text == ',';
    return n;
}

int key_parse(const char *text, struct key *ret_k)
{
    struct key k = {0};

    for (;;) {
        size_t len = strcspn(text, ",");
        struct slice name = trimmed(text, len);

        if (name.len == 0 || k.n == LIMIT_KEY_COLUMNS)
            return -EINVAL;
        for (size_t i = 0; i < k.n; i++)
            if (slice_eq(k.column[i], name))
                return -EINVAL;
        k.column[k.n++] = name;
        if (!text[len])
            break;
        text += len + 1;
    }
    *ret_k = k;
    return 0;
}

bool key_find(const char *text, const char *name, size_t *ret_i)
{
    struct key k;

    if (!name || key_parse(text, &k))
        return false;
    for (size_t i = 0; i < k.n; i++) {
        if (slice_eq_str(k.column[i], name)) {
            *ret_i = i;
            return true;
        }
    }
    return false;
}

static void write_text(struct buf *dst, struct slice s)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";

    buf_append_char(dst, '"');
    for (size_t i = 0; i < s.len; i++) {
        const char *at = s.p[i] ? strchr(from, s.p[i]) : NULL;

        if (at) {
            buf_append_char(dst, '\\');
            buf_append_char(dst, to[at - from]);
        } else if ((unsigned char)s.p[i] < 0x20) {
            buf_appendf(dst, "\\u%04x", (unsigned)(unsigned char)s.p[i]);
        } else {
            buf_append_char(dst, s.p[i]);
        }
    }
    buf_append_char(dst, '"');
}

void key_write(struct buf *dst, const struct slice *values, size_t n)
{
    if (n == 1) {
        buf_append_slice(dst, values[0]);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        buf_append_str(dst, i ? ", " : "[");
        write_text(dst, values[i]);
    }
    buf_append_char(dst, ']');
}
