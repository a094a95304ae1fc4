/* SPDX-License-Identifier: Apache-2.0 */
/* Reads ISO 8601 exactly as dateutil's isoparse does, because that is what a Python worker reads eta and expires with:
 * what it takes we take with the same meaning, what it refuses we refuse.
 *
 * The form is found by trying: the common dates first (YYYY, YYYY-MM, YYYY-MM-DD, YYYYMMDD), and only when a piece of
 * one is missing or no number, week dates and ordinal dates. Then one separator byte of any value, then the time.
 * Pieces have a fixed width and are read by the rules of Python's int(): " 3", "+3" and "1_0" are numbers, so
 * "2026-11- 3" is a date. A date that has the right form but does not exist (month 13) is never tried as another
 * form. */

#include "celeryc/base/clock.h"

#include "celeryc/base/clock_priv.h"

#include <errno.h>

struct iso {
    struct slice s;
    size_t pos;
    int64_t year, month, day;
    int64_t time[4]; /* hour, minute, second, microsecond */
    int64_t offset_s;
};

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Python's int() of a few bytes. The callers cut at most 4 bytes, so nothing overflows. */
static bool py_int(struct slice s, int64_t *ret_v)
{
    bool negative = false, digit_before = false;
    int64_t v = 0;

    while (s.len && is_space(s.p[0]))
        s = (struct slice){s.p + 1, s.len - 1};
    while (s.len && is_space(s.p[s.len - 1]))
        s.len--;
    if (s.len && (s.p[0] == '-' || s.p[0] == '+')) {
        negative = s.p[0] == '-';
        s = (struct slice){s.p + 1, s.len - 1};
    }
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] == '_' && digit_before) {
            digit_before = false;
            continue;
        }
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        v = v * 10 + (s.p[i] - '0');
        digit_before = true;
    }
    if (!digit_before)
        return false;
    *ret_v = negative ? -v : v;
    return true;
}

/* At most len bytes from pos; shorter at the end, as slices are in Python. */
static struct slice cut(struct slice s, size_t pos, size_t len)
{
    if (pos >= s.len)
        return (struct slice){s.p, 0};
    return (struct slice){s.p + pos, MIN(len, s.len - pos)};
}

static bool byte_is(struct slice s, size_t pos, char c)
{
    return pos < s.len && s.p[pos] == c;
}

static bool parse_common_date(struct iso *t)
{
    size_t pos = 4;
    bool dash;

    t->month = t->day = 1;
    if (!py_int(cut(t->s, 0, 4), &t->year))
        return false;
    if (pos >= t->s.len) {
        t->pos = pos;
        return true;
    }
    dash = byte_is(t->s, pos, '-');
    pos += dash;
    if (t->s.len - pos < 2 || !py_int(cut(t->s, pos, 2), &t->month))
        return false;
    pos += 2;
    if (pos >= t->s.len) {
        t->pos = pos;
        return dash;
    }
    if (dash && !byte_is(t->s, pos, '-'))
        return false;
    pos += dash;
    if (t->s.len - pos < 2 || !py_int(cut(t->s, pos, 2), &t->day))
        return false;
    t->pos = pos + 2;
    return true;
}

/* Turns a count of days since 1970 into the date; -ERANGE outside the calendar. */
static int set_days(struct iso *t, int64_t days)
{
    if (days < -DAYS_TO_1970 || days >= DAYS_TO_10000)
        return -ERANGE;
    while (t->year > 1 && clock_days(t->year, 1, 1) > days)
        t->year--;
    while (t->year < 9999 && clock_days(t->year + 1, 1, 1) <= days)
        t->year++;
    t->month = 1;
    t->day = days - clock_days(t->year, 1, 1) + 1;
    while (t->day > clock_month_days(t->year, t->month))
        t->day -= clock_month_days(t->year, t->month++);
    return 0;
}

static int parse_week_date(struct iso *t, size_t pos, bool dash)
{
    int64_t week, day = 1, jan_4;

    if (!py_int(cut(t->s, pos, 2), &week))
        return -EINVAL;
    pos += 2;
    if (t->s.len > pos) {
        if (byte_is(t->s, pos, '-') != dash)
            return -EINVAL;
        pos += dash;
        if (!py_int(cut(t->s, pos, 1), &day))
            return -EINVAL;
        pos++;
    }
    if (week < 1 || week > 53 || day < 1 || day > 7 || t->year < 1)
        return -EINVAL;
    t->pos = pos;
    /* 1970-01-01 was a Thursday (weekday 3 when Monday is 0); January 4th is always in week 1. */
    jan_4 = clock_days(t->year, 1, 4);
    return set_days(t, jan_4 - ((jan_4 + 3) % 7 + 7) % 7 + (week - 1) * 7 + day - 1);
}

static int parse_uncommon_date(struct iso *t)
{
    bool dash = byte_is(t->s, 4, '-');
    size_t pos = 4 + (size_t)dash;
    int64_t ordinal;

    if (!py_int(cut(t->s, 0, 4), &t->year))
        return -EINVAL;
    if (byte_is(t->s, pos, 'W'))
        return parse_week_date(t, pos + 1, dash);
    if (t->s.len - pos < 3 || !py_int(cut(t->s, pos, 3), &ordinal))
        return -EINVAL;
    if (t->year < 1 || ordinal < 1 || ordinal > 365 + clock_is_leap(t->year))
        return -EINVAL;
    t->pos = pos + 3;
    return set_days(t, clock_days(t->year, 1, 1) + ordinal - 1);
}

static bool parse_zone(struct slice s, int64_t *ret_offset_s)
{
    int64_t hours, minutes = 0;

    if (s.len == 1 && (s.p[0] == 'Z' || s.p[0] == 'z')) {
        *ret_offset_s = 0;
        return true;
    }
    if ((s.len != 3 && s.len != 5 && s.len != 6) || (s.p[0] != '-' && s.p[0] != '+'))
        return false;
    if (!py_int(cut(s, 1, 2), &hours))
        return false;
    if (s.len > 3 && !py_int(cut(s, s.p[3] == ':' ? 4 : 3, s.len), &minutes))
        return false;
    if (minutes > 59 || hours > 23)
        return false;
    *ret_offset_s = (hours * 60 + minutes) * 60 * (s.p[0] == '-' ? -1 : 1);
    return true;
}

/* The digits after '.' or ',', cut to six. Gives the number of bytes used, 0 when there is no fraction. */
static size_t parse_fraction(struct slice s, int64_t *ret_us)
{
    int64_t us = 0;
    size_t n = 0;

    if (s.len < 2 || (s.p[0] != '.' && s.p[0] != ',') || s.p[1] < '0' || s.p[1] > '9')
        return 0;
    for (; 1 + n < s.len && s.p[1 + n] >= '0' && s.p[1 + n] <= '9'; n++) {
        if (n < 6)
            us = us * 10 + (s.p[1 + n] - '0');
    }
    for (size_t i = n; i < 6; i++)
        us *= 10;
    *ret_us = us;
    return 1 + n;
}

static bool parse_time(struct iso *t, struct slice s)
{
    size_t pos = 0;
    bool colon = false;

    if (s.len < 2)
        return false;
    /* Six rounds, as isoparse makes: a zone may also stand where a fraction could. */
    for (int i = 0; pos < s.len && i < 6; i++) {
        char c = s.p[pos];

        if (c == '-' || c == '+' || c == 'Z' || c == 'z') {
            if (!parse_zone(cut(s, pos, s.len), &t->offset_s))
                return false;
            pos = s.len;
            break;
        }
        if (i == 1 && c == ':') {
            colon = true;
            pos++;
        } else if (i == 2 && colon) {
            if (c != ':')
                return false;
            pos++;
        }
        if (i < 3) {
            if (!py_int(cut(s, pos, 2), &t->time[i]))
                return false;
            pos += 2;
        } else if (i == 3) {
            pos += parse_fraction(cut(s, pos, s.len), &t->time[3]);
        }
    }
    return pos >= s.len;
}

static bool in_range(const struct iso *t)
{
    if (t->year < 1 || t->year > 9999 || t->month < 1 || t->month > 12 || t->day < 1 ||
        t->day > clock_month_days(t->year, t->month))
        return false;
    if (t->time[0] == 24)
        return t->time[1] == 0 && t->time[2] == 0 && t->time[3] == 0;
    return t->time[0] >= 0 && t->time[0] < 24 && t->time[1] >= 0 && t->time[1] < 60 &&
           t->time[2] >= 0 && t->time[2] < 60;
}

int clock_iso_parse(struct slice s, int64_t *ret_wall_us)
{
    struct iso t = {.s = s};
    int64_t local_us, wall_us;

    if (s.len < 4)
        return -EINVAL;
    for (size_t i = 0; i < s.len; i++) {
        if ((unsigned char)s.p[i] > 127)
            return -EINVAL;
    }
    if (!parse_common_date(&t)) {
        int r = parse_uncommon_date(&t);

        if (r)
            return r;
    }
    if (s.len > t.pos && !parse_time(&t, cut(s, t.pos + 1, s.len)))
        return -EINVAL;
    if (!in_range(&t))
        return -EINVAL;
    local_us = clock_days(t.year, t.month, t.day) * US_PER_DAY +
               ((t.time[0] * 60 + t.time[1]) * 60 + t.time[2]) * US_PER_S + t.time[3];
    wall_us = local_us - t.offset_s * US_PER_S;
    /* Both must be times of the calendar: "9999-12-31T24:00" is no local time, whatever its zone. */
    if (local_us > CLOCK_MAX_US || wall_us < CLOCK_MIN_US || wall_us > CLOCK_MAX_US)
        return -ERANGE;
    *ret_wall_us = wall_us;
    return 0;
}
