/* SPDX-License-Identifier: Apache-2.0 */
/* scatter-plan report: writes, or writes again, the report of a plan that may be in any state. */

#include "planner/plan.h"

#include "celeryc/message/json.h"
#include "planner/report.h"

int plan_report(const struct args *a, struct buf *dst, struct err *e)
{
    CLEANUP(servers_deinit) struct servers s = {0};
    CLEANUP(arena_free) struct arena *arena = arena_new();
    struct db_plan plan;
    const char *state;
    char sha256[65];
    int r = arena ? servers_open_db(&s, a->database_url, e) : -ENOMEM;

    if (!r)
        r = db_plan_get(s.db, a->plan, arena, &plan, &state, e);
    if (!r)
        r = report_write(s.db, a->store, a->plan, sha256, e);
    if (r)
        return r > 0 ? -EIO : r;
    const char *url =
        arena_printf(arena, "%s/%s/report", a->store ? a->store : plan.store, a->plan);

    if (!url)
        return -ENOMEM;
    if (!str_eq(a->format, "json")) {
        buf_appendf(dst, "report   %s/report.html\nmanifest %s/manifest.json\nsha256   %s\n", url,
                    url, sha256);
        return buf_ok(dst);
    }
    buf_append_str(dst, "{\"plan\": ");
    json_write_string(dst, slice_str(a->plan));
    buf_append_str(dst, ", \"report\": ");
    json_write_string(dst, slice_str(url));
    buf_appendf(dst, ", \"sha256\": \"%s\"}\n", sha256);
    return buf_ok(dst);
}
