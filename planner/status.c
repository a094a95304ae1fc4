/* SPDX-License-Identifier: Apache-2.0 */
/* How far a plan is, from the control tables, as a table or one JSON object. */

#include "planner/plan.h"

#include "celeryc/base/clock.h"
#include "celeryc/db/rows.h"
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
    write_text(dst, "reason", s->reason);
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
    if (s->reason)
        buf_appendf(dst, "because          %s\n", s->reason);
    for (size_t i = 0; i < n; i++)
        buf_appendf(dst, "%-16s %13s\n", counts[i].name, progress_number(counts[i].value, number));
}

/* What the row says besides: where the plan comes from, why it stands, what was checked, what waits. */
enum {
    MORE_KIND,
    MORE_PARENT,
    MORE_REASON,
    MORE_VERIFICATION,
    MORE_REPORT,
    MORE_OPEN,
    MORE_RESOLVED,
    MORE_CALLBACKS
};

static const char more_sql[] =
    "SELECT p.kind, p.parent, p.reason, p.verification, p.report_sha256, (SELECT count(*) FROM "
    "scatter_outcome o WHERE o.plan = p.plan AND o.resolved_by IS NULL), (SELECT count(*) FROM "
    "scatter_outcome o WHERE o.plan = p.plan AND o.resolved_by IS NOT NULL), (SELECT count(*) FROM "
    "scatter_outbox x WHERE x.plan = p.plan AND x.sent_at IS NULL) FROM scatter_plan p WHERE "
    "p.plan = $1";

static void more_json(struct buf *dst, const struct db_rows *more)
{
    struct slice verified = db_cell(more, 0, MORE_VERIFICATION);

    dst->len -= 2; /* "}\n" */
    write_text(dst, "kind", db_cell(more, 0, MORE_KIND).p);
    write_text(dst, "parent", db_cell(more, 0, MORE_PARENT).p);
    write_text(dst, "reason", db_cell(more, 0, MORE_REASON).p);
    buf_appendf(dst, ", \"open\": %lld, \"resolved\": %lld, \"callbacks_pending\": %lld",
                (long long)db_cell_i64(more, 0, MORE_OPEN),
                (long long)db_cell_i64(more, 0, MORE_RESOLVED),
                (long long)db_cell_i64(more, 0, MORE_CALLBACKS));
    buf_append_str(dst, ", \"verification\": ");
    buf_append_slice(dst, verified.len ? verified : SLICE_LIT("null"));
    write_text(dst, "report_sha256", db_cell(more, 0, MORE_REPORT).p);
    buf_append_str(dst, "}\n");
}

static const char *verdict(struct slice verification)
{
    if (!verification.len)
        return "not yet";
    return memmem(verification.p, verification.len, "\"ok\": true", 10) ? "holds" : "DOES NOT HOLD";
}

static void more_table(struct buf *dst, const struct db_rows *more)
{
    const struct count counts[] = {{"open", db_cell_i64(more, 0, MORE_OPEN)},
                                   {"resolved", db_cell_i64(more, 0, MORE_RESOLVED)},
                                   {"callbacks", db_cell_i64(more, 0, MORE_CALLBACKS)}};
    char number[32];

    for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
        buf_appendf(dst, "%-16s %13s\n", counts[i].name, progress_number(counts[i].value, number));
    if (db_cell(more, 0, MORE_PARENT).p)
        buf_appendf(dst, "%-16s %s of %s\n", "made as", db_cell(more, 0, MORE_KIND).p,
                    db_cell(more, 0, MORE_PARENT).p);
    if (db_cell(more, 0, MORE_REASON).p)
        buf_appendf(dst, "%-16s %s\n", "reason", db_cell(more, 0, MORE_REASON).p);
    buf_appendf(dst, "%-16s %s\n", "verification", verdict(db_cell(more, 0, MORE_VERIFICATION)));
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

    CLEANUP(db_rows_deinit) struct db_rows more = {0};

    code = db_read(servers.db, more_sql, (struct db_val[]){db_text(a->plan)}, 1, &more, e);
    if (code || more.n_rows == 0)
        return code < 0 ? code : -EIO;
    if (str_eq(a->format, "json")) {
        write_json(dst, a->plan, &s, counts, ARRAY_SIZE(counts));
        if (!buf_ok(dst))
            more_json(dst, &more);
    } else {
        write_table(dst, a->plan, &s, counts, ARRAY_SIZE(counts));
        more_table(dst, &more);
    }
    return buf_ok(dst);
}
