/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of a command, each opened once and checked before anything is made. */

#include "planner/plan.h"

#include "celeryc/base/url.h"

#include <errno.h>

#define CONNECT_MS 5000

void servers_deinit(struct servers *s)
{
    if (!s)
        return;
    db_close(s->db);
    store_close(s->store);
    redis_sync_close(s->redis);
    redis_endpoint_deinit(&s->endpoint);
    *s = (struct servers){0};
}

int servers_open_db(struct servers *s, const char *url, struct err *e)
{
    int code = db_open(url, &s->db, e);

    return code ? err_prefix(e, code > 0 ? -EIO : code,
                             "cannot open the database (--database-url, SCATTER_DATABASE)")
                : 0;
}

int servers_find_plan(struct servers *s, const char *plan, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct db_plan p = {0};
    const char *state = NULL;
    int code = a ? db_plan_get(s->db, plan, a, &p, &state, e) : -ENOMEM;

    return code > 0 ? -EIO : code;
}

int servers_open_broker(struct servers *s, const char *url, struct err *e)
{
    const struct redis_reply *reply = NULL;
    int code = redis_endpoint_parse(url, &s->endpoint, e);

    if (!code)
        code = redis_endpoint_apply(&s->endpoint, NULL, e);
    if (!code)
        code = redis_sync_open(&s->endpoint, CONNECT_MS, &s->redis, e);
    if (!code)
        code = redis_sync_command(s->redis, 1, (struct slice[]){SLICE_LIT("PING")}, &reply, e);
    return code ? err_prefix(e, code > 0 ? -EIO : code,
                             "cannot use the broker (-b, CELERY_BROKER_URL)")
                : 0;
}

void result_deinit(struct result *r)
{
    if (!r)
        return;
    free(r->plan);
    free(r->store);
    free(r->queue);
    free(r->note);
    free(r->first_key);
    free(r->last_key);
    buf_deinit(&r->sample);
    buf_deinit(&r->preflight);
    buf_deinit(&r->preflight_text);
    *r = (struct result){0};
}
