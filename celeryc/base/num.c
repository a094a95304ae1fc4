/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers from text. Every function reads the whole slice or refuses it; nothing here depends on the locale that a
 * plug-in may have set. */

#include "celeryc/base/num.h"

#include "celeryc/base/clock.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>

static int parse_digits(struct slice s, uint64_t *ret_v)
{
    uint64_t v = 0;
    bool over = false;

    if (s.len == 0)
        return -EINVAL;
    for (size_t i = 0; i < s.len; i++) {
        unsigned digit = (unsigned char)s.p[i] - '0';

        if (digit > 9)
            return -EINVAL;
        over = over || __builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, digit, &v);
    }
    if (over)
        return -ERANGE;
    *ret_v = v;
    return 0;
}

int num_parse_u64(struct slice s, uint64_t *ret_v)
{
    return parse_digits(s, ret_v);
}

int num_parse_u32(struct slice s, uint32_t *ret_v)
{
    uint64_t v;
    int r = parse_digits(s, &v);

    if (r)
        return r;
    if (v > UINT32_MAX)
        return -ERANGE;
    *ret_v = (uint32_t)v;
    return 0;
}

int num_parse_i64(struct slice s, int64_t *ret_v)
{
    bool negative = s.len > 0 && s.p[0] == '-';
    uint64_t v;
    int r;

    if (negative)
        s = (struct slice){s.p + 1, s.len - 1};
    r = parse_digits(s, &v);
    if (r)
        return r;
    if (v > (uint64_t)INT64_MAX + (negative ? 1 : 0))
        return -ERANGE;
    *ret_v = negative ? (int64_t)(0 - v) : (int64_t)v;
    return 0;
}

/* The length of a decimal number at the front of s: [-] digits [. digits] [e [+-] digits], a digit somewhere. */
static size_t decimal_span(struct slice s, bool *ret_exponent)
{
    size_t i = 0, digits = 0;

    *ret_exponent = false;
    if (i < s.len && s.p[i] == '-')
        i++;
    for (; i < s.len && s.p[i] >= '0' && s.p[i] <= '9'; i++)
        digits++;
    if (i < s.len && s.p[i] == '.')
        i++;
    for (; i < s.len && s.p[i] >= '0' && s.p[i] <= '9'; i++)
        digits++;
    if (digits == 0)
        return 0;
    if (i < s.len && (s.p[i] == 'e' || s.p[i] == 'E')) {
        size_t j = i + 1;

        if (j < s.len && (s.p[j] == '+' || s.p[j] == '-'))
            j++;
        if (j < s.len && s.p[j] >= '0' && s.p[j] <= '9') {
            while (j < s.len && s.p[j] >= '0' && s.p[j] <= '9')
                j++;
            i = j;
            *ret_exponent = true;
        }
    }
    return i;
}

static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;
static locale_t c_locale;

static void make_c_locale(void)
{
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

int num_parse_f64(struct slice s, double *ret_v)
{
    char small[64];
    CLEANUP(mem_free) char *big = NULL;
    char *text = small;
    bool exponent;
    double v;

    if (s.len == 0 || decimal_span(s, &exponent) != s.len)
        return -EINVAL;
    if (s.len >= sizeof(small)) {
        big = slice_dup(s);
        if (!big)
            return -ENOMEM;
        text = big;
    } else {
        memcpy(small, s.p, s.len);
        small[s.len] = '\0';
    }
    (void)pthread_once(&c_locale_once, make_c_locale);
    v = c_locale ? strtod_l(text, NULL, c_locale) : strtod(text, NULL);
    if (isinf(v))
        return -ERANGE;
    *ret_v = v;
    return 0;
}

static int unit_ns(struct slice unit, double *ret_ns)
{
    static const struct {
        const char *name;
        int64_t ns;
    } units[] = {
        {"", NS_PER_S},       {"ms", NS_PER_MS},      {"s", NS_PER_S},
        {"m", 60 * NS_PER_S}, {"h", 3600 * NS_PER_S},
    };

    for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
        if (slice_eq_str(unit, units[i].name)) {
            *ret_ns = (double)units[i].ns;
            return 0;
        }
    }
    return -EINVAL;
}

int num_parse_duration_ns(struct slice s, int64_t *ret_ns)
{
    bool exponent;
    size_t n = decimal_span(s, &exponent);
    double v, scale;
    int r;

    if (n == 0 || s.p[0] == '-')
        return -EINVAL;
    r = unit_ns((struct slice){s.p + n, s.len - n}, &scale);
    if (r)
        return r;
    r = num_parse_f64((struct slice){s.p, n}, &v);
    if (r)
        return r;
    v = round(v * scale);
    if (v >= 9.2e18)
        return -ERANGE;
    *ret_ns = (int64_t)v;
    return 0;
}
