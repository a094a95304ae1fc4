/* SPDX-License-Identifier: Apache-2.0 */
/* A list in order of adding beside a map from name to its node. Renewing moves the node to the end. */

#include "celeryc/control/revoked.h"

#include "celeryc/base/list.h"
#include "celeryc/base/map.h"

#include <errno.h>

struct entry {
    struct list node;
    int64_t added_ns;
    size_t len;
    char name[];
};

struct revoked {
    struct list order;
    struct map *by_name;
    size_t max;
    int64_t expires_ns;
};

struct revoked *revoked_new(size_t max, int64_t expires_ns)
{
    struct revoked *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    list_init(&r->order);
    r->max = max;
    r->expires_ns = expires_ns;
    r->by_name = map_new();
    return r->by_name ? r : revoked_free(r);
}

static void drop(struct revoked *r, struct entry *e)
{
    (void)map_remove(r->by_name, (struct slice){e->name, e->len});
    list_remove(&e->node);
    free(e);
}

struct revoked *revoked_free(struct revoked *r)
{
    if (!r)
        return NULL;
    LIST_FOREACH(it, &r->order)
        free(LIST_ENTRY(it, struct entry, node));
    map_free(r->by_name);
    free(r);
    return NULL;
}

int revoked_add(struct revoked *r, struct slice name, int64_t now_ns)
{
    struct entry *e = map_get(r->by_name, name);
    if (e) {
        e->added_ns = now_ns;
        list_remove(&e->node);
        list_push_back(&r->order, &e->node);
        return 0;
    }
    e = malloc(sizeof(*e) + name.len + 1);
    if (!e)
        return -ENOMEM;
    *e = (struct entry){.added_ns = now_ns, .len = name.len};
    memcpy(e->name, name.len ? name.p : "", name.len);
    e->name[name.len] = '\0';
    if (map_set(r->by_name, name, e)) {
        free(e);
        return -ENOMEM;
    }
    list_push_back(&r->order, &e->node);
    if (map_len(r->by_name) > r->max)
        drop(r, LIST_ENTRY(r->order.next, struct entry, node));
    return 0;
}

bool revoked_has(const struct revoked *r, struct slice name)
{
    return map_get(r->by_name, name) != NULL;
}

void revoked_purge(struct revoked *r, int64_t now_ns)
{
    while (r->expires_ns && !list_empty(&r->order)) {
        struct entry *e = LIST_ENTRY(r->order.next, struct entry, node);
        if (now_ns - e->added_ns < r->expires_ns)
            return;
        drop(r, e);
    }
}

size_t revoked_len(const struct revoked *r)
{
    return map_len(r->by_name);
}

void revoked_each(const struct revoked *r, void (*fn)(struct slice name, void *arg), void *arg)
{
    LIST_FOREACH(it, &r->order) {
        const struct entry *e = LIST_ENTRY(it, struct entry, node);
        fn((struct slice){e->name, e->len}, arg);
    }
}
