/* SPDX-License-Identifier: Apache-2.0 */
/* Text checks on raw bytes. Pure functions; never reads past (p, len). */

#include "celeryc/batch/batch_priv.h"

/* Which bytes of a word have their high bit set, are below 0x20, or are a quote or a backslash. */
static bool word_special(uint64_t w)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), high = UINT64_C(0x8080808080808080);
    uint64_t quote = w ^ (ones * '"'), back = w ^ (ones * '\\');

    return ((w - ones * 0x20) | w | (quote - ones) | (back - ones)) & high;
}

size_t text_plain(const char *p, size_t len)
{
    size_t i = 0;

    while (len - i >= 8) {
        uint64_t w;

        memcpy(&w, p + i, 8);
        if (word_special(w))
            break;
        i += 8;
    }
    while (i < len) {
        unsigned char c = (unsigned char)p[i];

        if (c < 0x20 || c > 0x7f || c == '"' || c == '\\')
            break;
        i++;
    }
    return i;
}

static bool continuation(const char *p)
{
    return ((unsigned char)*p & 0xc0) == 0x80;
}

size_t text_sequence(const char *p, size_t len)
{
    unsigned char a = (unsigned char)p[0], b = len > 1 ? (unsigned char)p[1] : 0;

    if (a < 0x80)
        return 1;
    if (a < 0xc2 || len < 2 || !continuation(p + 1))
        return 0;
    if (a < 0xe0)
        return 2;
    if (len < 3 || !continuation(p + 2))
        return 0;
    if (a < 0xf0)
        return (a == 0xe0 && b < 0xa0) || (a == 0xed && b >= 0xa0) ? 0 : 3;
    if (a > 0xf4 || len < 4 || !continuation(p + 3))
        return 0;
    return (a == 0xf0 && b < 0x90) || (a == 0xf4 && b >= 0x90) ? 0 : 4;
}

bool text_valid(struct slice s)
{
    size_t i = 0;

    while (i < s.len) {
        size_t n = text_plain(s.p + i, s.len - i);

        i += n;
        if (i == s.len)
            break;
        n = text_sequence(s.p + i, s.len - i);
        if (n == 0 || s.p[i] == '\0')
            return false;
        i += n;
    }
    return true;
}

static size_t digits(const char *p, size_t len)
{
    size_t i = 0;

    while (i < len && p[i] >= '0' && p[i] <= '9')
        i++;
    return i;
}

size_t text_number(const char *p, size_t len)
{
    size_t i = 0, n;

    if (i < len && p[i] == '-')
        i++;
    n = digits(p + i, len - i);
    if (n == 0 || (n > 1 && p[i] == '0'))
        return 0;
    i += n;
    if (i < len && p[i] == '.') {
        n = digits(p + i + 1, len - i - 1);
        if (n == 0)
            return 0;
        i += 1 + n;
    }
    if (i < len && (p[i] == 'e' || p[i] == 'E')) {
        i++;
        if (i < len && (p[i] == '+' || p[i] == '-'))
            i++;
        n = digits(p + i, len - i);
        if (n == 0)
            return 0;
        i += n;
    }
    return i;
}

static void write_escape(struct buf *dst, unsigned char c)
{
    static const char names[] = "btn\vfr"; /* 0x08..0x0d, 0x0b has none */

    if (c == '"' || c == '\\') {
        buf_append_char(dst, '\\');
        buf_append_char(dst, (char)c);
    } else if (c >= 0x08 && c <= 0x0d && c != 0x0b) {
        buf_append_char(dst, '\\');
        buf_append_char(dst, names[c - 0x08]);
    } else {
        buf_appendf(dst, "\\u%04x", c);
    }
}

void text_write(struct buf *dst, struct slice s)
{
    size_t i = 0;

    buf_append_char(dst, '"');
    while (i < s.len) {
        size_t n = text_plain(s.p + i, s.len - i);

        buf_append(dst, s.p + i, n);
        i += n;
        if (i == s.len)
            break;
        if ((unsigned char)s.p[i] >= 0x80) {
            size_t start = i;

            while (i < s.len && (unsigned char)s.p[i] >= 0x80)
                i++;
            buf_append(dst, s.p + start, i - start);
        } else {
            write_escape(dst, (unsigned char)s.p[i]);
            i++;
        }
    }
    buf_append_char(dst, '"');
}
