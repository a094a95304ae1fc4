/* SPDX-License-Identifier: Apache-2.0 */
/* What a preflight prints: members of a JSON object, and the same for people. */

#include "planner/preflight_priv.h"

#include "planner/progress.h"

#include <math.h>

static const char *const levels[] = {"ok", "warn", "block"};

static double expected(const struct preflight *p, const struct error_count *c)
{
    return (double)c->records +
           (c->sampled ? preflight_basis(p) * (double)c->sampled / preflight_tried(p) : 0);
}

/* Of the records that are changed, for what was found in the sample; what the migration refuses is counted, not guessed. */
static double at_most(const struct preflight *p, const struct error_count *c)
{
    return (double)c->records +
           (c->sampled ? preflight_basis(p) * upper_bound((double)c->sampled, preflight_tried(p))
                       : 0);
}

static void member(struct buf *b, const char *name, const char *text)
{
    buf_appendf(b, "\"%s\": ", name);
    json_write_string_or_null(b, slice_str(text));
}

static void number(struct buf *b, const char *name, double v)
{
    buf_appendf(b, ", \"%s\": ", name);
    if (isfinite(v))
        buf_appendf(b, "%.0f", v);
    else
        buf_append_str(b, "null");
}

static void write_errors(const struct preflight *p, struct buf *b)
{
    buf_append_str(b, ", \"errors\": [");
    for (size_t i = 0; i < p->n_errors; i++) {
        const struct error_count *c = &p->errors[i];

        buf_append_str(b, i ? ", {" : "{");
        member(b, "error_class", c->name);
        buf_append_str(b, ", ");
        member(b, "sqlstate", c->sqlstate[0] ? c->sqlstate : NULL);
        number(b, "records", expected(p, c));
        number(b, "at_most", at_most(p, c));
        buf_appendf(b, ", \"counted\": %s, ", c->sampled ? "false" : "true");
        member(b, "example", c->example);
        buf_append_char(b, '}');
    }
    buf_append_char(b, ']');
}

static void write_pair(const struct preflight *p, const struct db_row *row, struct buf *b)
{
    buf_append_str(b, "{\"key\": ");
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;

    key_write(&key, row->old, p->key.n);
    json_write_string(b, buf_slice(&key));
    buf_append_str(b, ", \"before\": {");
    for (size_t i = 0; i < p->target.n_reads; i++) {
        buf_append_str(b, i ? ", " : "");
        json_write_string(b, slice_str(p->target.reads[i]));
        buf_append_str(b, ": ");
        json_write_string_or_null(b, row->old[p->key.n + i]);
    }
    buf_append_str(b, "}, \"after\": {");
    for (size_t i = 0, n = 0; i < p->target.n_writes; i++) {
        if (row->set && !row->set[i])
            continue;
        buf_append_str(b, n++ ? ", " : "");
        json_write_string(b, slice_str(p->target.writes[i]));
        buf_append_str(b, ": ");
        json_write_string_or_null(b, row->fresh[i]);
    }
    buf_append_str(b, "}}");
}

static bool has_forecast(const struct preflight *p)
{
    return p->n_kept || p->own.done;
}

/* One connection, two, four, and as many as were asked for. */
static size_t connections(const struct preflight *p, int64_t n[4])
{
    int64_t asked = p->request->args->workers;
    bool usual = asked == 1 || asked == 2 || asked == 4;

    n[0] = 1;
    n[1] = 2;
    n[2] = 4;
    n[3] = asked;
    return asked && !usual ? 4 : 3;
}

static void write_times(const struct preflight *p, struct buf *b)
{
    int64_t n[4];
    size_t n_n = connections(p, n);

    buf_append_str(b, ", \"times\": [");
    for (size_t i = 0; i < n_n; i++)
        buf_appendf(b, "%s{\"connections\": %lld, \"seconds\": %.3f}", i ? ", " : "",
                    (long long)n[i], preflight_seconds(p, n[i]));
    buf_append_char(b, ']');
    if (p->forecast.cores)
        buf_appendf(b, ", \"database_cores\": %lld", (long long)p->forecast.cores);
}

static void write_forecast(const struct preflight *p, struct buf *b)
{
    const struct forecast *f = &p->forecast;
    bool wal = !db_is_sqlite(p->db) && has_forecast(p);

    buf_appendf(b, ", \"forecast\": {\"rows\": %.0f, \"seconds\": %.3f, \"ms_per_record\": %.4f",
                f->rows, preflight_seconds(p, 1), f->seconds_row * 1000);
    write_times(p, b);
    number(b, "wal_bytes", wal ? f->wal : NAN);
    number(b, "wal_bytes_per_row", wal ? f->wal_row : NAN);
    number(b, "full_page_bytes", wal ? f->full_pages : NAN);
    number(b, "heap_growth_bytes", wal ? f->heap_growth : NAN);
    number(b, "index_growth_bytes", wal ? f->index_growth : NAN);
    if (wal && f->hot >= 0)
        buf_appendf(b, ", \"hot\": %.3f", f->hot);
    buf_append_char(b, '}');
}

static void write_json(const struct preflight *p, struct buf *b)
{
    buf_appendf(b,
                "{\"records\": %lld, \"changed\": %lld, \"unchanged\": %lld, \"skipped\": %lld, "
                "\"failed\": %lld, \"estimated\": %s, \"sampled\": %.0f",
                (long long)p->n_records, (long long)p->changed, (long long)p->unchanged,
                (long long)p->skipped, (long long)p->failed, p->by_row ? "true" : "false",
                preflight_tried(p));
    write_errors(p, b);
    write_forecast(p, b);
    buf_append_str(b, ", \"pairs\": [");
    for (size_t i = 0; i < p->n_kept && i < PAIRS; i++) {
        buf_append_str(b, i ? ", " : "");
        write_pair(p, &p->sample[i], b);
    }
    buf_append_str(b, "], \"checks\": [");
    for (size_t i = 0; i < p->n_checks; i++) {
        buf_append_str(b, i ? ", {" : "{");
        member(b, "name", p->checks[i].name);
        buf_append_str(b, ", ");
        member(b, "level", levels[p->checks[i].level]);
        buf_append_str(b, ", ");
        member(b, "text", p->checks[i].text);
        buf_append_str(b, ", ");
        member(b, "fix", p->checks[i].fix);
        buf_append_char(b, '}');
    }
    buf_append_str(b, "]}");
}

/* ---- for people ---- */

static const char *bytes(double v, char dst[32])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    size_t i = 0;

    for (; v >= 1000 && i + 1 < ARRAY_SIZE(units); i++)
        v /= 1000;
    (void)snprintf(dst, 32, "%.3g %s", v, units[i]);
    return dst;
}

static void write_counts(const struct preflight *p, struct buf *b)
{
    const struct {
        const char *name;
        int64_t n;
    } lines[] = {{"changed", p->changed},
                 {"unchanged", p->unchanged},
                 {"skipped", p->skipped},
                 {"failed", p->failed}};

    char n[32];

    for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
        buf_appendf(b, "%-10s%s%s\n", lines[i].name, p->by_row ? "about " : "",
                    progress_number(lines[i].n, n));
    for (size_t i = 0; i < p->n_errors; i++) {
        const struct error_count *c = &p->errors[i];
        char most[32];

        buf_appendf(b, "error    %s%s%s: %s records%s%s%s, such as: %.200s\n", c->name,
                    c->sqlstate[0] ? " " : "", c->sqlstate,
                    progress_number((int64_t)expected(p, c), n), c->sampled ? " (at most " : "",
                    c->sampled ? progress_number((int64_t)at_most(p, c), most) : "",
                    c->sampled ? ", 95 %)" : "", c->example ? c->example : "");
    }
}

static void text_times(const struct preflight *p, struct buf *b)
{
    int64_t n[4], cores = p->forecast.cores;
    size_t n_n = connections(p, n);

    for (size_t i = 1; i < n_n; i++)
        buf_appendf(b, "%s%.0f s on %lld", i > 1 ? ", " : "         ", preflight_seconds(p, n[i]),
                    (long long)n[i]);
    if (db_is_sqlite(p->db))
        buf_append_str(b, "; SQLite lets one write at a time\n");
    else if (cores)
        buf_appendf(b, "; the database has %lld cores: more than %lld connections bring nothing\n",
                    (long long)cores, (long long)cores * 2);
    else
        buf_append_str(b, ", if the database has the cores for it (--database-cores N)\n");
}

static void write_text(const struct preflight *p, struct buf *b)
{
    const struct forecast *f = &p->forecast;
    char n[32], wal[32], images[32], heap[32], index[32];

    write_counts(p, b);
    if (has_forecast(p)) {
        buf_appendf(b,
                    "forecast %s rows in %.0f s on one connection (%.0f rows/s), sample of %.0f\n",
                    progress_number((int64_t)f->rows, n), preflight_seconds(p, 1),
                    f->seconds_row > 0 ? 1 / f->seconds_row : 0, preflight_tried(p));
        text_times(p, b);
    }
    if (has_forecast(p) && !db_is_sqlite(p->db))
        buf_appendf(b,
                    "         WAL %s (%.0f segments; %.0f B a row, %s of full pages), table +%s, "
                    "indexes +%s, HOT %.0f %%\n",
                    bytes(f->wal, wal), ceil(f->wal / 16777216), f->wal_row,
                    bytes(f->full_pages, images), bytes(f->heap_growth, heap),
                    bytes(f->index_growth, index), fmax(f->hot, 0) * 100);
    for (size_t i = 0; i < p->n_kept && i < PAIRS; i++) {
        buf_append_str(b, i ? "         " : "pairs    ");
        write_pair(p, &p->sample[i], b);
        buf_append_char(b, '\n');
    }
    for (size_t i = 0; i < p->n_checks; i++) {
        const struct check *c = &p->checks[i];

        buf_appendf(b, "%-9s%s: %s\n", levels[c->level], c->name, c->text ? c->text : "");
        if (c->fix)
            buf_appendf(b, "         fix: %s\n", c->fix);
    }
}

int preflight_report(struct preflight *p, struct buf *json, struct buf *text)
{
    write_json(p, json);
    write_text(p, text);
    return buf_ok(json) ? buf_ok(json) : buf_ok(text);
}
