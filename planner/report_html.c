/* SPDX-License-Identifier: Apache-2.0 */
/* The page of a report: one file that needs nothing else. Charts are SVG in place, colours follow the reader's scheme.
 * What people or rows brought is escaped; long lists are cut here, and whole in the CSV files beside the page. */

#include "planner/report.h"

#include "celeryc/base/clock.h"
#include "planner/progress.h"
#include "report_css.h"

#include <errno.h>

#define MAX_ROWS   200  /* of a table */
#define MAX_CELLS  2000 /* of the map of batches */
#define CHART_W    1000.0
#define CHART_H    240.0
#define CHART_LEFT 70.0
#define CHART_LOW  26.0 /* height of the labels below */

static const char *const outcomes[] = {"ok",      "unchanged",   "stale",
                                       "skipped", "quarantined", "remaining"};

static void escaped(struct buf *b, struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        switch (s.p[i]) {
        case '&':
            buf_append_str(b, "&amp;");
            break;
        case '<':
            buf_append_str(b, "&lt;");
            break;
        case '>':
            buf_append_str(b, "&gt;");
            break;
        case '"':
            buf_append_str(b, "&quot;");
            break;
        default:
            buf_append_char(b, s.p[i]);
        }
    }
}

static void number(struct buf *b, int64_t v)
{
    char text[32];

    buf_append_str(b, progress_number(v, text));
}

static void time_text(struct buf *b, int64_t us)
{
    char text[CLOCK_ISO_SIZE];

    if (!us)
        return;
    clock_iso_format(us, text);
    buf_appendf(b, "%.10s %.8s", text, text + 11);
}

static void duration(struct buf *b, double s)
{
    long long n = (long long)(s + 0.5);

    if (s < 10)
        buf_appendf(b, "%.1f s", s);
    else if (n < 60)
        buf_appendf(b, "%lld s", n);
    else if (n < 3600)
        buf_appendf(b, "%lld min %02lld s", n / 60, n % 60);
    else
        buf_appendf(b, "%lld h %02lld min", n / 3600, n / 60 % 60);
}

/* ---- the head ---- */

static void counts_of(const struct report *r, int64_t v[6])
{
    v[0] = report_ok(r);
    for (size_t i = 1; i < 5; i++)
        v[i] = db_cell_i64(&r->counts, 0, i + 1);
    v[5] = db_cell_i64(&r->counts, 0, 0) - db_cell_i64(&r->counts, 0, 1);
}

static void tiles(struct buf *b, const struct report *r)
{
    int64_t v[6], total = db_cell_i64(&r->counts, 0, 0);

    counts_of(r, v);
    buf_append_str(b, "<div class=\"tiles\">\n<div class=\"tile\"><b>");
    number(b, total);
    buf_append_str(b, "</b><span>planned</span></div>\n");
    for (size_t i = 0; i < ARRAY_SIZE(outcomes); i++) {
        buf_append_str(b, "<div class=\"tile\"><b>");
        number(b, v[i]);
        buf_appendf(b, "</b><span><i class=\"%s\"></i>%s</span></div>\n", outcomes[i], outcomes[i]);
    }
    buf_append_str(b, "<div class=\"tile\"><b>");
    number(b, report_open(r));
    buf_append_str(b, "</b><span>open</span></div>\n</div>\n");
}

static void head(struct buf *b, const struct report *r)
{
    double seconds = report_seconds(r);
    int64_t done = db_cell_i64(&r->counts, 0, 1);
    struct slice parent = db_cell(&r->head, 0, HEAD_PARENT);

    buf_append_str(b, "<h1>");
    escaped(b, slice_str(r->plan));
    buf_appendf(b, "<span class=\"state %s\">%s</span></h1>\n<p class=\"soft\">",
                db_cell(&r->head, 0, HEAD_STATE).p, db_cell(&r->head, 0, HEAD_STATE).p);
    escaped(b, db_cell(&r->head, 0, HEAD_MIGRATION));
    buf_append_str(b, " on ");
    escaped(b, db_cell(&r->head, 0, HEAD_TABLE));
    if (parent.len) {
        buf_appendf(b, ", %s of ", db_cell(&r->head, 0, HEAD_KIND).p);
        escaped(b, parent);
    }
    if (db_cell(&r->head, 0, HEAD_CREATED_BY).len) {
        buf_append_str(b, ", made by ");
        escaped(b, db_cell(&r->head, 0, HEAD_CREATED_BY));
    }
    buf_append_str(b, ", ");
    time_text(b, db_cell_i64(&r->head, 0, HEAD_CREATED));
    buf_append_str(b, " UTC");
    if (seconds > 0) {
        buf_append_str(b, "; ran for ");
        duration(b, seconds);
        buf_append_str(b, ", ");
        number(b, (int64_t)((double)done / seconds));
        buf_append_str(b, " records a second");
    }
    buf_append_str(b, "</p>\n");
    if (db_cell(&r->head, 0, HEAD_REASON).len) {
        buf_append_str(b, "<p><b>Why:</b> ");
        escaped(b, db_cell(&r->head, 0, HEAD_REASON));
        buf_append_str(b, "</p>\n");
    }
}

/* ---- outcomes: one bar ---- */

static void outcome_bar(struct buf *b, const struct report *r)
{
    int64_t v[6], total = db_cell_i64(&r->counts, 0, 0);
    double x = 0;

    counts_of(r, v);
    if (total <= 0)
        return;
    buf_append_str(b, "<h2>Outcomes</h2>\n<svg viewBox=\"0 0 1000 22\" role=\"img\" "
                      "aria-label=\"share of each outcome\">\n");
    for (size_t i = 0; i < ARRAY_SIZE(outcomes); i++) {
        double w = CHART_W * (double)v[i] / (double)total;

        if (v[i] <= 0)
            continue;
        buf_appendf(b,
                    "<rect class=\"%s\" x=\"%.2f\" y=\"0\" width=\"%.2f\" height=\"22\"><title>%s: "
                    "%lld (%.3f %%)</title></rect>\n",
                    outcomes[i], x, w < 1 ? 1 : w, outcomes[i], (long long)v[i],
                    100.0 * (double)v[i] / (double)total);
        x += w;
    }
    buf_append_str(b, "</svg>\n<p class=\"soft\">planned = ok + unchanged + stale + skipped + "
                      "quarantined + remaining: ");
    number(b, total);
    for (size_t i = 0; i < ARRAY_SIZE(outcomes); i++) {
        buf_append_str(b, i ? " + " : " = ");
        number(b, v[i]);
    }
    buf_append_str(b, "</p>\n");
}

/* ---- progress over time ---- */

struct point {
    int64_t at, records;
};

static int by_time(const void *a, const void *b)
{
    const struct point *x = a, *y = b;

    return x->at < y->at ? -1 : x->at > y->at;
}

static void chart_frame(struct buf *b, int64_t total, double seconds)
{
    buf_appendf(b,
                "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"records done over "
                "time\">\n",
                CHART_W, CHART_H + CHART_LOW);
    for (int i = 0; i <= 4; i++) {
        double y = 8 + (CHART_H - 8) * (4 - i) / 4.0,
               x = CHART_LEFT + (CHART_W - CHART_LEFT) * i / 4.0;

        buf_appendf(b, "<line class=\"grid\" x1=\"%.0f\" y1=\"%.1f\" x2=\"%.0f\" y2=\"%.1f\"/>",
                    CHART_LEFT, y, CHART_W, y);
        buf_appendf(b, "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">", CHART_LEFT - 8, y + 4);
        number(b, total * i / 4);
        buf_appendf(b, "</text><text x=\"%.1f\" y=\"%.0f\" text-anchor=\"%s\">", x, CHART_H + 18,
                    i == 0   ? "start"
                    : i == 4 ? "end"
                             : "middle");
        duration(b, seconds * i / 4);
        buf_append_str(b, "</text>\n");
    }
}

static void curve(struct buf *b, const struct point *p, size_t n, int64_t from, int64_t to,
                  int64_t total)
{
    CLEANUP(buf_deinit) struct buf path = BUF_INIT;
    double w = CHART_W - CHART_LEFT, h = CHART_H - 8, x = CHART_LEFT;
    int64_t sum = 0;

    buf_appendf(&path, "M%.1f %.1f", CHART_LEFT, CHART_H);
    for (size_t i = 0; i < n; i++) {
        sum += p[i].records;
        x = CHART_LEFT + w * (double)(p[i].at - from) / (double)(to - from);
        buf_appendf(&path, "L%.1f %.1f", x, CHART_H - h * (double)sum / (double)total);
    }
    if (!buf_ok(&path))
        buf_appendf(b,
                    "<path class=\"area\" d=\"%sL%.1f %.1fZ\"/><path class=\"curve\" d=\"%s\"/>\n",
                    path.data, x, CHART_H, path.data);
}

static int progress(struct buf *b, const struct report *r)
{
    int64_t from = db_cell_i64(&r->head, 0, HEAD_STARTED), total = db_cell_i64(&r->counts, 0, 0);
    struct point *p = arena_alloc_array(r->batches.arena, r->batches.n_rows + 1, sizeof(*p));
    size_t n = 0;

    if (!p)
        return -ENOMEM;
    for (size_t i = 0; i < r->batches.n_rows; i++) {
        int64_t at = db_cell_i64(&r->batches, i, BATCH_FINISHED);

        if (at > from)
            p[n++] = (struct point){at, db_cell_i64(&r->batches, i, BATCH_POSITION)};
    }
    if (!from || n == 0 || total <= 0)
        return 0;
    qsort(p, n, sizeof(*p), by_time);
    buf_append_str(b, "<h2>Progress</h2>\n");
    chart_frame(b, total, (double)(p[n - 1].at - from) / 1e6);
    curve(b, p, n, from, p[n - 1].at, total);
    buf_append_str(b, "</svg>\n");
    return 0;
}

/* ---- batches ---- */

/* What a batch is coloured by: the worst that became of its records. */
static const char *colour(const struct report *r, size_t i)
{
    if (db_cell_is(&r->batches, i, BATCH_STATE_AT, "failed") ||
        db_cell_i64(&r->batches, i, BATCH_QUARANTINED))
        return "quarantined";
    if (db_cell_is(&r->batches, i, BATCH_STATE_AT, "running"))
        return "running";
    if (!db_cell_is(&r->batches, i, BATCH_STATE_AT, "done"))
        return "remaining";
    if (db_cell_i64(&r->batches, i, BATCH_STALE))
        return "stale";
    return db_cell_i64(&r->batches, i, BATCH_SKIPPED) ? "skipped" : "ok";
}

static int64_t set_aside(const struct report *r, size_t i)
{
    return db_cell_i64(&r->batches, i, BATCH_STALE) + db_cell_i64(&r->batches, i, BATCH_SKIPPED) +
           db_cell_i64(&r->batches, i, BATCH_QUARANTINED);
}

static void batch_map(struct buf *b, const struct report *r)
{
    size_t n = MIN(r->batches.n_rows, MAX_CELLS), per_row = 50;

    if (n == 0)
        return;
    buf_appendf(b,
                "<h2>Batches</h2>\n<svg viewBox=\"0 0 1000 %zu\" role=\"img\" aria-label=\"state "
                "of each batch\">\n",
                (n + per_row - 1) / per_row * 20);
    for (size_t i = 0; i < n; i++)
        buf_appendf(
            b,
            "<rect class=\"%s\" x=\"%zu\" y=\"%zu\" width=\"18\" height=\"18\" rx=\"2\"><title>"
            "batch %lld: %s, %lld of %lld records, %lld set aside</title></rect>\n",
            colour(r, i), i % per_row * 20, i / per_row * 20,
            (long long)db_cell_i64(&r->batches, i, BATCH_NUMBER_AT),
            db_cell(&r->batches, i, BATCH_STATE_AT).p,
            (long long)db_cell_i64(&r->batches, i, BATCH_POSITION),
            (long long)db_cell_i64(&r->batches, i, BATCH_RECORDS), (long long)set_aside(r, i));
    buf_append_str(b, "</svg>\n<p class=\"soft\">");
    if (r->batches.n_rows > n) {
        buf_append_str(b, "The first ");
        number(b, (int64_t)n);
        buf_append_str(b, " of ");
        number(b, (int64_t)r->batches.n_rows);
        buf_append_str(b, "; ");
    }
    buf_append_str(b,
                   "coloured by the worst that became of their records; all in batches.csv</p>\n");
}

/* ---- tables ---- */

static void bar_cell(struct buf *b, const char *class, int64_t v, int64_t of)
{
    buf_appendf(b,
                "<td style=\"width:30%%\"><div class=\"bar %s\" style=\"width:%.2f%%\"></div></td>",
                class, of > 0 ? 100.0 * (double)v / (double)of : 0.0);
}

static void workers(struct buf *b, const struct report *r)
{
    int64_t most = r->workers.n_rows ? db_cell_i64(&r->workers, 0, 1) : 0, sum = 0;

    if (!most)
        return;
    for (size_t i = 0; i < r->workers.n_rows; i++)
        sum += db_cell_i64(&r->workers, i, 1);
    buf_append_str(b, "<h2>Workers</h2>\n<table><tr><th>worker</th><th class=\"n\">records</th><th "
                      "class=\"n\">share</th><th></th></tr>\n");
    for (size_t i = 0; i < r->workers.n_rows && i < MAX_ROWS; i++) {
        int64_t v = db_cell_i64(&r->workers, i, 1);

        buf_append_str(b, "<tr><td>");
        escaped(b, db_cell(&r->workers, i, 0));
        buf_append_str(b, "</td><td class=\"n\">");
        number(b, v);
        buf_appendf(b, "</td><td class=\"n\">%.1f %%</td>", 100.0 * (double)v / (double)sum);
        bar_cell(b, "", v, most);
        buf_append_str(b, "</tr>\n");
    }
    buf_append_str(b, "</table>\n");
}

static void failures(struct buf *b, const struct report *r)
{
    int64_t most = r->groups.n_rows ? db_cell_i64(&r->groups, 0, 4) : 0;

    if (!most)
        return;
    buf_append_str(b, "<h2>Set aside</h2>\n<div class=\"wide\"><table><tr><th>outcome</th><th>class"
                      "</th><th>SQLSTATE</th><th>message</th><th>for example</th><th class=\"n\">"
                      "records</th><th class=\"n\">open</th><th></th></tr>\n");
    for (size_t i = 0; i < r->groups.n_rows && i < MAX_ROWS; i++) {
        static const size_t shown[] = {0, 1, 2, 3, 6};

        buf_append_str(b, "<tr>");
        for (size_t k = 0; k < ARRAY_SIZE(shown); k++) {
            buf_append_str(b, "<td>");
            escaped(b, db_cell(&r->groups, i, shown[k]));
            buf_append_str(b, "</td>");
        }
        buf_append_str(b, "<td class=\"n\">");
        number(b, db_cell_i64(&r->groups, i, 4));
        buf_append_str(b, "</td><td class=\"n\">");
        number(b, db_cell_i64(&r->groups, i, 5));
        buf_append_str(b, "</td>");
        bar_cell(b, db_cell(&r->groups, i, 0).p, db_cell_i64(&r->groups, i, 4), most);
        buf_append_str(b, "</tr>\n");
    }
    buf_append_str(b, "</table></div>\n");
}

static void verification(struct buf *b, const struct report *r)
{
    buf_append_str(b, "<h2>Verification</h2>\n");
    if (!db_cell(&r->head, 0, HEAD_VERIFICATION).len) {
        buf_append_str(b, "<p class=\"soft\">Not verified: scatter-plan verify does it.</p>\n");
        return;
    }
    buf_append_str(b, "<pre>");
    escaped(b, db_cell(&r->head, 0, HEAD_VERIFICATION));
    buf_append_str(b, "</pre>\n");
}

static void children(struct buf *b, const struct report *r)
{
    if (r->children.n_rows == 0)
        return;
    buf_append_str(b, "<h2>Plans made from this one</h2>\n<table><tr><th>plan</th><th>kind</th><th>"
                      "state</th><th class=\"n\">records</th></tr>\n");
    for (size_t i = 0; i < r->children.n_rows; i++) {
        buf_append_str(b, "<tr>");
        for (size_t k = 0; k < 3; k++) {
            buf_append_str(b, "<td>");
            escaped(b, db_cell(&r->children, i, k));
            buf_append_str(b, "</td>");
        }
        buf_append_str(b, "<td class=\"n\">");
        number(b, db_cell_i64(&r->children, i, 3));
        buf_append_str(b, "</td></tr>\n");
    }
    buf_append_str(b, "</table>\n");
}

static void events(struct buf *b, const struct report *r)
{
    if (r->events.n_rows == 0)
        return;
    buf_append_str(b,
                   "<h2>Events</h2>\n<table><tr><th>at (UTC)</th><th class=\"n\">batch</th><th>who"
                   "</th><th>event</th><th>detail</th></tr>\n");
    for (size_t i = 0; i < r->events.n_rows && i < MAX_ROWS; i++) {
        buf_append_str(b, "<tr><td class=\"t\">");
        time_text(b, db_cell_i64(&r->events, i, 1));
        buf_append_str(b, "</td><td class=\"n\">");
        escaped(b, db_cell(&r->events, i, 2));
        buf_append_str(b, "</td>");
        for (size_t k = 3; k < 6; k++) {
            buf_append_str(b, "<td>");
            escaped(b, db_cell(&r->events, i, k));
            buf_append_str(b, "</td>");
        }
        buf_append_str(b, "</tr>\n");
    }
    buf_append_str(b, "</table>\n");
    if (r->events.n_rows > MAX_ROWS) {
        buf_append_str(b, "<p class=\"soft\">The first ones of ");
        number(b, (int64_t)r->events.n_rows);
        buf_append_str(b, "; all of them in events.csv</p>\n");
    }
}

static void query(struct buf *b, const struct report *r)
{
    if (!db_cell(&r->head, 0, HEAD_QUERY).len)
        return;
    buf_append_str(b, "<h2>Query</h2>\n<pre>");
    escaped(b, db_cell(&r->head, 0, HEAD_QUERY));
    buf_append_str(b, "</pre>\n");
}

int report_html(const struct report *r, struct buf *dst)
{
    buf_append_str(dst, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta "
                        "name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                        "<title>Scatter: ");
    escaped(dst, slice_str(r->plan));
    buf_append_str(dst, "</title>\n<style>\n");
    buf_append_str(dst, report_css);
    buf_append_str(dst, "</style></head><body>\n");
    head(dst, r);
    tiles(dst, r);
    outcome_bar(dst, r);
    if (progress(dst, r))
        return -ENOMEM;
    failures(dst, r);
    workers(dst, r);
    batch_map(dst, r);
    verification(dst, r);
    children(dst, r);
    events(dst, r);
    query(dst, r);
    buf_append_str(dst, "</body></html>\n");
    return buf_ok(dst);
}
