/* SPDX-License-Identifier: Apache-2.0 */
/* A binary heap. Entries with the same time come out in no particular order. */

#include "celeryc/worker/due.h"

#include <errno.h>

static void place(struct due_heap *h, size_t i, struct due *d)
{
    h->v[i] = d;
    d->slot = i + 1;
}

static void up(struct due_heap *h, size_t i, struct due *d)
{
    while (i > 0) {
        size_t parent = (i - 1) / 2;
        if (h->v[parent]->at_ns <= d->at_ns)
            break;
        place(h, i, h->v[parent]);
        i = parent;
    }
    place(h, i, d);
}

static void down(struct due_heap *h, size_t i, struct due *d)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= h->n)
            break;
        if (child + 1 < h->n && h->v[child + 1]->at_ns < h->v[child]->at_ns)
            child++;
        if (h->v[child]->at_ns >= d->at_ns)
            break;
        place(h, i, h->v[child]);
        i = child;
    }
    place(h, i, d);
}

int due_set(struct due_heap *h, struct due *d, int64_t at_ns)
{
    due_clear(h, d);
    if (h->n == h->cap) {
        size_t cap = h->cap ? h->cap * 2 : 64;
        struct due **v = realloc(h->v, cap * sizeof(struct due *));
        if (!v)
            return -ENOMEM;
        h->v = v;
        h->cap = cap;
    }
    d->at_ns = at_ns;
    up(h, h->n++, d);
    return 0;
}

void due_clear(struct due_heap *h, struct due *d)
{
    if (!d->slot)
        return;
    size_t i = d->slot - 1;
    d->slot = 0;
    struct due *last = h->v[--h->n];
    if (last == d)
        return;
    if (i > 0 && h->v[(i - 1) / 2]->at_ns > last->at_ns)
        up(h, i, last);
    else
        down(h, i, last);
}

struct due *due_first(const struct due_heap *h)
{
    return h->n ? h->v[0] : NULL;
}

void due_deinit(struct due_heap *h)
{
    free(h->v);
    *h = (struct due_heap){NULL, 0, 0};
}
