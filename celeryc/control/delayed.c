/* SPDX-License-Identifier: Apache-2.0 */
/* `inspect scheduled` and `query_task` tell of what waits at the broker, too. All workers share it, so one of them lists it, the earliest
 * messages only: the list is read first, in one bounded call, and the command runs when it is there. */

#include "celeryc/control/io_priv.h"

#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"

#define PAGE_BYTES "4194304"

struct asking {
    struct control *c;
    struct arena *arena; /* holds the message, and what was read */
    struct mailbox_message m;
};

bool delayed_wanted(const struct control *c, const struct mailbox_message *m)
{
    const struct control_host *h = c->panel.host;
    return c->o->delayed_page && m->wants_reply && h->lists_delayed &&
           redis_conn_is_up(c->commands) &&
           (slice_eq_str(m->method.raw, "\"scheduled\"") ||
            slice_eq_str(m->method.raw, "\"query_task\"") ||
            slice_eq_str(m->method.raw, "\"dump_schedule\"")) &&
           h->lists_delayed(h->arg);
}

/* Those that can be read; the others show when they are due. */
static void read_page(struct asking *a, const struct redis_reply *reply)
{
    struct panel *p = &a->c->panel;
    if (!redis_reply_ok(reply) || reply->kind != REDIS_R_ARRAY)
        return;
    struct panel_delayed *v = arena_alloc_array(a->arena, reply->n / 4, sizeof(*v));
    for (size_t i = 0; v && i < reply->n / 4; i++) {
        struct panel_delayed *at = &v[p->n_delayed];
        double due_ms = 0;
        if (num_parse_f64(reply->elem[4 * i + 1]->str, &due_ms) == 0 &&
            message_parse_as(a->arena, a->c->o->wire, reply->elem[4 * i + 3]->str, &at->m, NULL) ==
                0) {
            at->due_us = (int64_t)due_ms * 1000;
            p->n_delayed++;
        }
    }
    p->delayed = v;
}

static void on_page(const struct redis_reply *reply, void *arg)
{
    struct asking *a = arg;
    struct control *c = a->c;
    struct call call;
    if (!c->freed) {
        read_page(a, reply);
        panel_run(&c->panel, a->arena, a->m.method, a->m.arguments, &call);
        c->panel.n_delayed = 0;
        c->panel.delayed = NULL;
        answer_send(c, &a->m, buf_slice(&call.out));
        buf_deinit(&call.out);
    }
    arena_free(a->arena);
    free(a);
}

void delayed_ask(struct control *c, const struct mailbox_message *m)
{
    struct asking *a = malloc(sizeof(*a));
    struct arena *fresh = arena_new();
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    char max[24];
    buf_appendf(&key, "%sceleryc:delayed", c->o->key_prefix);
    if (!a || !fresh || buf_ok(&key)) {
        free(a);
        arena_free(fresh);
        return; /* the caller's time runs out */
    }
    *a = (struct asking){c, c->arena, *m};
    c->arena = fresh;
    (void)snprintf(max, sizeof(max), "%d", LIMIT_CONTROL_DELAYED);
    const struct slice argv[] = {buf_slice(&key), SLICE_LIT("0"), slice_str(max),
                                 SLICE_LIT(PAGE_BYTES)};
    redis_eval(c->commands, c->o->delayed_page, on_page, a, ARRAY_SIZE(argv), argv);
}
