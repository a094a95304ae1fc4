/* SPDX-License-Identifier: Apache-2.0 */
/* Names of lists, and what one message or record says: is it ours, is it due? The bytes may be anybody's. */

#include "k8s/scaler/load.h"

#include "celeryc/message/message.h"
#include "celeryc/transport/route.h"

#include <errno.h>

void load_keys_default(struct load_keys *k)
{
    *k = (struct load_keys){
        .prefix = "",
        .sep = "\x06\x16",
        .steps = {0, 3, 6, 9},
        .n_steps = 4,
        .celeryc = true,
        .scan_limit = 1000,
        .wake_lead_s = 60,
    };
}

/* ---- lists ---- */

void load_lists_deinit(struct load_lists *l)
{
    strv_deinit(&l->keys);
    strv_deinit(&l->queues);
}

int load_lists_init(struct load_lists *l, const struct load_keys *k, const struct strv *queues)
{
    int r = 0;

    *l = (struct load_lists){0};
    for (size_t i = 0; i < queues->n; i++) {
        r = r ? r : strv_add(&l->queues, queues->v[i]);
        for (size_t j = 0; r == 0 && j < k->n_steps; j++) {
            CLEANUP(mem_free)
            char *key =
                route_list_key(k->prefix, queues->v[i], k->steps[j], k->sep, k->steps, k->n_steps);

            r = key ? strv_add(&l->keys, key) : -ENOMEM;
        }
    }
    if (r)
        load_lists_deinit(l);
    return r;
}

/* ---- records ---- */

int load_message_due(struct arena *a, struct slice raw, int64_t now_us, enum load_due *ret_due)
{
    struct message m;
    int r = message_parse(a, raw, &m, NULL);

    if (r == -ENOMEM)
        return r;
    *ret_due = r == 0 && m.has_eta && m.eta_us > now_us ? LOAD_LATER : LOAD_DUE;
    return 0;
}

struct slice load_record_exchange(struct arena *a, struct slice value)
{
    struct json_val v;
    struct slice exchange;

    if (json_scan(value, &v, NULL) || v.kind != JSON_K_ARRAY || json_len(v) != 3 ||
        json_string(a, json_at(v, 1), &exchange))
        return SLICE_NULL;
    return exchange;
}

int load_record_due(struct arena *a, const struct load_lists *l, const struct load_keys *k,
                    struct slice value, const struct redis_reply *members, int64_t now_us,
                    enum load_due *ret_due)
{
    const struct route_keys keys = {k->prefix, k->sep, k->steps, k->n_steps};
    struct json_val v;
    struct route route;
    int r = route_record(a, &keys, value, members, &route);

    *ret_due = LOAD_NOT_OURS;
    if (r)
        return r == -ENOMEM ? r : 0;
    for (size_t i = 0; i < route.n; i++) {
        if (!strv_has(&l->keys, route.lists[i]))
            continue;
        if (json_scan(value, &v, NULL))
            return 0;
        return load_message_due(a, json_at(v, 0).raw, now_us, ret_due);
    }
    return 0;
}
