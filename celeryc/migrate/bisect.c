/* SPDX-License-Identifier: Apache-2.0 */
/* The search for refused records. It knows nothing of databases, so that its cost can be tested. */

#include "celeryc/migrate/bisect.h"

#include <stdlib.h>

#define MAX_HINTS 2 /* of one search: a text that points at every record must not make it linear */

static size_t middle(const struct bisect *b, size_t lo, size_t hi, int *hints)
{
    if (b->suspect && *hints < MAX_HINTS) {
        size_t s = b->suspect(b->arg, lo, hi - lo);

        ++*hints;
        if (s < hi)
            return s > lo ? s : lo + 1;
    }
    return lo + (hi - lo) / 2;
}

/* [*lo, hi) was refused as a whole. 0: *lo is refused, and was tried alone. *lo == hi: all were written after all. */
static int isolate(const struct bisect *b, size_t *lo, size_t hi)
{
    int hints = 0;

    while (*lo < hi) {
        size_t mid = hi - *lo > 1 ? middle(b, *lo, hi, &hints) : hi;
        int r = b->apply(b->arg, *lo, mid - *lo);

        if (r == 0)
            *lo = mid;
        else if (r != BISECT_REFUSED)
            return r;
        else if (mid - *lo == 1)
            return 0;
        else
            hi = mid;
    }
    return 0;
}

int bisect_run(const struct bisect *b, size_t n)
{
    size_t lo = 0, group = n, bad = 0;

    while (lo < n) {
        size_t hi = n - lo < group ? n : lo + group;
        int r = b->apply(b->arg, lo, hi - lo);

        if (r == 0) {
            lo = hi;
            continue;
        }
        if (r == BISECT_REFUSED)
            r = hi - lo > 1 ? isolate(b, &lo, hi) : 0;
        if (r)
            return r;
        if (lo == hi)
            continue;
        r = b->single(b->arg, lo);
        if (r)
            return r;
        bad++;
        group = 1 + (lo + n) / (2 * bad);
    }
    return 0;
}

/* ---- what an error speaks of ---- */

/* Does the word stand in the text as a value: between brackets, quotes or commas? */
static bool quotes(const char *text, struct slice word)
{
    if (!word.p || word.len == 0)
        return false;
    for (const char *p = text; (p = strstr(p, word.p)); p++)
        if (p > text && strchr("(\" ", p[-1]) && p[word.len] && strchr("),\"", p[word.len]))
            return true;
    return false;
}

static size_t characters(struct slice s)
{
    size_t n = 0;

    for (size_t i = 0; i < s.len; i++)
        n += ((unsigned char)s.p[i] & 0xc0) != 0x80;
    return n;
}

/* "value too long for type character varying(20)": 20; 0: the text is about something else. */
static size_t length_allowed(const char *text)
{
    const char *p = strstr(text, "too long for type ");

    p = p ? strchr(p, '(') : NULL;
    return p ? strtoul(p + 1, NULL, 10) : 0;
}

size_t bisect_suspect(const struct db_row *rows, size_t n, size_t n_writes, const char *text)
{
    const char *row_text = strstr(text, "Failing row contains (");
    size_t allowed = length_allowed(text);

    for (size_t i = 0; i < n; i++) {
        const struct db_row *row = &rows[i];

        if (row->outcome != DB_O_CHANGED)
            continue;
        if (row_text && quotes(row_text, row->old[0]))
            return i;
        for (size_t k = 0; !row_text && k < n_writes; k++) {
            if (row->set && !row->set[k])
                continue;
            if (allowed ? characters(row->fresh[k]) > allowed : quotes(text, row->fresh[k]))
                return i;
        }
    }
    return n;
}
