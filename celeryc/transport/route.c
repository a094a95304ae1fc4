/* SPDX-License-Identifier: Apache-2.0 */
/* Where a record of `unacked`, [message, exchange, routing_key], goes back to: the anonymous exchange names the queue; for a
 * named one its binding set decides, and when that knows nothing the message goes to the queue named by the routing key
 * rather than nowhere. */
#include "celeryc/transport/route.h"

#include <errno.h>
#include <string.h>

#include "celeryc/message/message.h"

#define MAX_STEPS_OF_MATCH 10000

static bool next_word(struct slice *rest, struct slice *ret_word)
{
    if (!rest->p)
        return false;
    const char *dot = memchr(rest->p, '.', rest->len);
    size_t len = dot ? (size_t)(dot - rest->p) : rest->len;
    *ret_word = (struct slice){rest->p, len};
    *rest = dot ? (struct slice){dot + 1, rest->len - len - 1} : SLICE_NULL;
    return true;
}

/* Topic rules of kombu 5.7: "*" is one word, "#" any text, the rest is literal. Both texts are a peer's: a pattern that takes
 * more than MAX_STEPS_OF_MATCH does not match. */
static bool topic_matches(struct slice pattern, struct slice key, unsigned *steps)
{
    struct slice p, k;
    while (next_word(&pattern, &p)) {
        if (++*steps > MAX_STEPS_OF_MATCH)
            return false;
        if (slice_eq_str(p, "#")) {
            if (!pattern.p)
                return true;
            for (;;) {
                if (topic_matches(pattern, key, steps))
                    return true;
                if (!next_word(&key, &k) || !key.p || *steps > MAX_STEPS_OF_MATCH)
                    return false;
            }
        }
        if (!next_word(&key, &k))
            return false;
        if (slice_eq_str(p, "*") ? k.len == 0 : !slice_eq(p, k))
            return false;
    }
    return key.p == NULL;
}

/* Where the lists and what else is kept. */
struct routing {
    struct arena *arena;
    const struct route_keys *keys;
    struct route *route;
};

static void route_add(const struct routing *r, struct slice queue, int priority)
{
    const struct route_keys *k = r->keys;
    struct route *route = r->route;
    CLEANUP(mem_free) char *name = slice_dup(queue);
    CLEANUP(mem_free)
    char *list =
        name ? route_list_key(k->prefix, name, priority, k->sep, k->steps, k->n_steps) : NULL;
    const char *kept = list ? arena_strdup(r->arena, slice_str(list)) : NULL;
    for (size_t i = 0; kept && i < route->n; i++) {
        if (str_eq(route->lists[i], kept))
            return;
    }
    if (kept && route->n < ROUTE_LISTS)
        route->lists[route->n++] = kept;
}

/* A member is routing key SEP pattern SEP queue. */
static void route_member(const struct routing *r, struct slice member, struct slice key,
                         int priority)
{
    const char *sep = r->keys->sep;
    size_t len = strlen(sep);
    const char *a = memmem(member.p, member.len, sep, len);
    if (!a)
        return;
    struct slice bound = {member.p, (size_t)(a - member.p)};
    struct slice rest = {a + len, member.len - bound.len - len};
    const char *b = memmem(rest.p, rest.len, sep, len);
    if (!b)
        return;
    bool direct = b == rest.p;
    struct slice queue = {b + len, rest.len - (size_t)(b - rest.p) - len};
    unsigned steps = 0;
    if (direct ? slice_eq(bound, key) : topic_matches(bound, key, &steps))
        route_add(r, queue, priority);
}

static int record_priority(struct json_val message)
{
    int64_t v = 0;
    if (json_i64(json_get(json_get(message, "properties"), "priority"), &v))
        return 0;
    return (int)MAX(0, MIN(v, 9));
}

int route_record(struct arena *a, const struct route_keys *k, struct slice value,
                 const struct redis_reply *members, struct route *ret_route)
{
    struct json_val v;
    struct slice exchange, key;
    struct route route = {.n = 0};
    const struct routing r = {a, k, &route};
    if (json_scan(value, &v, NULL) || v.kind != JSON_K_ARRAY || json_len(v) != 3 ||
        json_string(a, json_at(v, 1), &exchange) || json_string(a, json_at(v, 2), &key))
        return -EINVAL;
    struct json_val message = json_at(v, 0);
    int priority = record_priority(message);
    for (size_t i = 0; exchange.len && i < members->n; i++)
        route_member(&r, members->elem[i]->str, key, priority);
    if (route.n == 0 && key.len)
        route_add(&r, key, priority);
    CLEANUP(buf_deinit) struct buf marked = BUF_INIT;
    if (route.n == 0)
        return -EINVAL;
    if (message_write_redelivered(&marked, message.raw))
        return -ENOMEM;
    const char *raw = arena_strdup(a, buf_slice(&marked));
    route.raw = (struct slice){raw, marked.len};
    *ret_route = route;
    return raw ? 0 : -ENOMEM;
}

/* kombu: the largest step that is not above the priority; below the first one the last (its list index -1). */
char *route_list_key(const char *prefix, const char *queue, int priority, const char *sep,
                     const int *steps, size_t n_steps)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    priority = MAX(0, MIN(priority, 9));
    int step = steps[n_steps - 1];
    for (size_t i = 0; i < n_steps && steps[i] <= priority; i++)
        step = steps[i];
    buf_append_str(&b, prefix);
    buf_append_str(&b, queue);
    if (step)
        buf_appendf(&b, "%s%d", sep, step);
    return buf_take(&b);
}
