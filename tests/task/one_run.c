/* SPDX-License-Identifier: Apache-2.0 */
#include "one_run.h"

#include <errno.h>

struct run start(body_fn fn, const char *args, const char *kwargs)
{
    return (struct run){
        .settings = {.node = "w1@host", .default_queue = "celery"},
        .task = {.name = "tasks.add", .run = fn},
        .message = {.task = SLICE_LIT("tasks.add"),
                    .id = SLICE_LIT(ID),
                    .args = slice_str(args),
                    .kwargs = slice_str(kwargs),
                    .queue = SLICE_LIT("q1"),
                    .ignore_result = TRI_UNSET},
        .arena = arena_new(),
        .out_arena = arena_new(),
    };
}

static void on_state(void *arg, struct slice record)
{
    struct run *r = arg;
    buf_append_slice(&r->states, record);
    buf_append_char(&r->states, '\n');
}

static int on_apply(void *arg, const struct outcome *o)
{
    struct run *r = arg;
    if (r->refuse_apply)
        return -E2BIG;
    r->n_applied_starts += o->n_starts;
    for (size_t i = 0; i < o->n_messages; i++) {
        buf_append_slice(&r->applied, o->messages[i].queue);
        buf_appendf(&r->applied, " %d ", o->messages[i].priority);
        buf_append_slice(&r->applied, o->messages[i].raw);
        buf_append_char(&r->applied, '\n');
    }
    return 0;
}

static void on_send(void *arg, struct slice queue, int priority, struct slice raw)
{
    struct run *r = arg;
    buf_append_slice(&r->sends, queue);
    buf_append_char(&r->sends, ' ');
    buf_append_slice(&r->sends, raw);
    buf_append_char(&r->sends, '\n');
}

void run_raw(struct run *r, struct slice raw)
{
    CLEANUP(task_registry_free) struct task_registry *table = task_registry_new();
    struct task_host host = {
        .state = on_state, .send = on_send, .apply = on_apply, .stop = &r->stop, .arg = r};
    struct err e = ERR_INIT;
    cr_assert_eq(task_registry_add(table, &r->task, NULL, NULL, &e), 0, "%s", e.text);
    cr_assert_eq(task_run(table, &r->settings, &host, r->arena, SLICE_LIT("q1"), raw, &r->bytes),
                 0);
    cr_assert_eq(outcome_decode(r->out_arena, buf_slice(&r->bytes), &r->o, &e), 0, "%s", e.text);
    buf_append_slice(&r->record, r->o.record);
    buf_append_slice(&r->repr, r->o.repr);
    buf_append_slice(&r->traceback, r->o.traceback);
}

void run(struct run *r)
{
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    cr_assert_eq(message_write_new(&raw, &r->message), 0);
    run_raw(r, buf_slice(&raw));
}

void end(struct run *r)
{
    arena_free(r->arena);
    arena_free(r->out_arena);
    buf_deinit(&r->bytes);
    buf_deinit(&r->record);
    buf_deinit(&r->repr);
    buf_deinit(&r->traceback);
    buf_deinit(&r->states);
    buf_deinit(&r->sends);
    buf_deinit(&r->applied);
}

/* The record with the time of day taken out. */
const char *record(struct run *r)
{
    char *at = r->record.data ? strstr(r->record.data, "\"date_done\": \"") : NULL;
    if (at) {
        char *from = at + strlen("\"date_done\": \""), *to = strchr(from, '"');
        memmove(from + 1, to, strlen(to) + 1);
        *from = 'T';
    }
    return r->record.data ? r->record.data : "";
}

const char *text(const struct buf *b)
{
    return b->data ? b->data : "";
}
