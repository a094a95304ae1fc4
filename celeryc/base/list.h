/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* An intrusive doubly linked list with a head; a node is in at most one list. */

#include "celeryc/base/util.h"

#include <stdbool.h>

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

static inline bool list_linked(const struct list *n)
{
    return n->next && n->next != n;
}

static inline void list_push_back(struct list *l, struct list *n)
{
    n->prev = l->prev;
    n->next = l;
    l->prev->next = n;
    l->prev = n;
}

static inline void list_push_front(struct list *l, struct list *n)
{
    list_push_back(l->next, n);
}

/* Unlinks and re-inits, so that it may be called twice. */
static inline void list_remove(struct list *n)
{
    if (!n->next)
        return;
    n->next->prev = n->prev;
    n->prev->next = n->next;
    list_init(n);
}

#define LIST_ENTRY(ptr, type, member) CONTAINER_OF(ptr, type, member)

/* Safe against removal of the current node. */
#define LIST_FOREACH(it, head)                                                \
    for (struct list *it = (head)->next, *it##_next = it->next; it != (head); \
         it = it##_next, it##_next = it->next)
