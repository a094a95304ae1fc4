/* SPDX-License-Identifier: Apache-2.0 */
/* String lists, and the guess at what a mistyped name meant. */

#include "celeryc/base/strv.h"

#include "celeryc/base/buf.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

static int add_n(struct strv *l, const char *s, size_t len)
{
    char **v = realloc(l->v, (l->n + 2) * sizeof(*v));
    if (!v)
        return -ENOMEM;
    l->v = v;
    v[l->n] = strndup(s, len);
    if (!v[l->n])
        return -ENOMEM;
    v[++l->n] = NULL;
    return 0;
}

int strv_add(struct strv *l, const char *s)
{
    return add_n(l, s, strlen(s));
}

int strv_add_commas(struct strv *l, const char *s)
{
    while (*s) {
        size_t len = strcspn(s, ",");
        const char *b = s, *e = s + len;
        while (b < e && isspace((unsigned char)*b))
            b++;
        while (e > b && isspace((unsigned char)e[-1]))
            e--;
        int r = b == e ? 0 : add_n(l, b, (size_t)(e - b));
        if (r)
            return r;
        s += len + (s[len] == ',');
    }
    return 0;
}

bool strv_has(const struct strv *l, const char *s)
{
    for (size_t i = 0; i < l->n; i++)
        if (str_eq(l->v[i], s))
            return true;
    return false;
}

void strv_drop(struct strv *l, const char *s)
{
    size_t kept = 0;
    for (size_t i = 0; i < l->n; i++) {
        if (str_eq(l->v[i], s))
            free(l->v[i]);
        else
            l->v[kept++] = l->v[i];
    }
    if (l->v)
        l->v[kept] = NULL;
    l->n = kept;
}

void strv_deinit(struct strv *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->v[i]);
    free(l->v);
    *l = (struct strv){NULL, 0};
}

/* Edits (insert, drop, change, swap of neighbours) from a to b; only names of up to 63 bytes are compared. */
static size_t edits(const char *a, const char *b)
{
    enum { MAX = 64 };

    size_t la = strlen(a), lb = strlen(b);
    if (la >= MAX || lb >= MAX)
        return MAX;
    size_t row[3][MAX + 1];
    for (size_t j = 0; j <= lb; j++)
        row[0][j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t *cur = row[i % 3], *up = row[(i + 2) % 3], *up2 = row[(i + 1) % 3];
        cur[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            size_t best = up[j - 1] + (a[i - 1] != b[j - 1]);
            best = MIN(best, MIN(up[j], cur[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = MIN(best, up2[j - 2] + 1);
            cur[j] = best;
        }
    }
    return row[la % 3][lb];
}

const char *strv_nearest(const char *word, const char *(*next)(size_t i, const void *arg),
                         const void *arg)
{
    size_t best = strlen(word) / 3 + 2;
    const char *found = NULL;
    const char *c;
    for (size_t i = 0; (c = next(i, arg)) != NULL; i++) {
        size_t d = edits(word, c);
        if (d < best) {
            best = d;
            found = c;
        }
    }
    return found;
}
