/* SPDX-License-Identifier: Apache-2.0 */
/* How far a plan is, from the control tables, as a table or one JSON object. */

#include "planner/plan.h"

#include "celeryc/base/clock.h"
#include "celeryc/message/json.h"

#include <errno.h>

struct count {
    const char *name;
    int64_t value;
};

static void write_time(struct buf *dst, const char *name, int64_t us)
{
    char text[CLOCK_ISO_SIZE];

    buf_appendf(dst, ", \"%s\": ", name);
    if (!us) {
        buf_append_str(dst, "null");
        return;
    }
    clock_iso_format(us, text);
    json_write_string(dst, slice_str(text));
}

static void write_text(struct buf *dst, const char *name, const char *text)
{
    buf_appendf(dst, ", \"%s\": ", name);
    json_write_string_or_null(dst, slice_str(text));
}

static void write_json(struct buf *dst, const char *plan, const struct db_plan_status *s,
                       const struct count *counts, size_t n)
{
    buf_append_str(dst, "{\"plan\": ");
    json_write_string(dst, slice_str(plan));
    write_text(dst, "state", s->state);
    write_text(dst, "migration", s->migration);
    write_text(dst, "store", s->store);
    write_text(dst, "queue", s->queue);
    for (size_t i = 0; i < n; i++)
        buf_appendf(dst, ", \"%s\": %lld", counts[i].name, (long long)counts[i].value);
    write_time(dst, "created", s->created_us);
    write_time(dst, "started", s->started_us);
    write_time(dst, "finished", s->finished_us);
    buf_append_str(dst, "}\n");
}

static void write_table(struct buf *dst, const char *plan, const struct db_plan_status *s,
                        const struct count *counts, size_t n)
{
    char number[32];

    buf_appendf(dst, "plan             %s\nmigration        %s\nstate            %s\n", plan,
                s->migration ? s->migration : "", s->state ? s->state : "");
    for (size_t i = 0; i < n; i++)
        buf_appendf(dst, "%-16s %13s\n", counts[i].name, progress_number(counts[i].value, number));
}

int plan_status(const struct args *a, struct buf *dst, struct err *e)
{
    CLEANUP(servers_deinit) struct servers servers = {0};
    CLEANUP(db_plan_status_deinit) struct db_plan_status s = {0};
    int code = servers_open_db(&servers, a->database_url, e);

    if (!code)
        code = db_plan_status(servers.db, a->plan, &s, e);
    if (code)
        return code < 0 ? code : -EIO;
    const struct count counts[] = {
        {"total", s.total},
        {"ok", s.ok},
        {"unchanged", s.unchanged},
        {"stale", s.stale},
        {"skipped", s.skipped},
        {"quarantined", s.quarantined},
        {"remaining", s.remaining},
        {"batches", s.n_batches},
        {"batches_done", s.batches_done},
        {"batches_running", s.batches_running},
        {"batches_failed", s.batches_failed},
    };

    if (str_eq(a->format, "json"))
        write_json(dst, a->plan, &s, counts, ARRAY_SIZE(counts));
    else
        write_table(dst, a->plan, &s, counts, ARRAY_SIZE(counts));
    return buf_ok(dst);
}
