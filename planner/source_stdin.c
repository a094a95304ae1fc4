/* SPDX-License-Identifier: Apache-2.0 */
/* Records from standard input, any program's: NDJSON, one array a row, in key order.
 *
 * Lines are parsed in the read buffer, which holds at most one line more than was last read. An end of input is not
 * proof that the sender was done: who can, sends a trailer and says so in the first line (see source.h). */

#include "planner/source.h"

#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"
#include "celeryc/message/json.h"
#include "planner/stop.h"

#include <errno.h>
#include <unistd.h>

#define READ_BYTES (256u << 10)

void stdin_source_init(struct stdin_source *s, int fd)
{
    *s = (struct stdin_source){.fd = fd, .text = BUF_INIT};
}

void stdin_source_deinit(struct stdin_source *s)
{
    buf_deinit(&s->text);
    free(s->fields);
    free(s->kinds);
    *s = (struct stdin_source){.fd = -1};
}

static int fill(struct stdin_source *s, struct err *e)
{
    ssize_t n;

    buf_consume(&s->text, s->pos);
    s->pos = 0;
    if (s->text.len > LIMIT_BATCH_LINE)
        return err_set(e, -EINVAL, "standard input: line %lld is longer than %u MiB",
                       (long long)s->line + 1, LIMIT_BATCH_LINE >> 20);
    buf_reserve(&s->text, READ_BYTES);
    if (s->text.failed)
        return -ENOMEM;
    do {
        if (stop_requested())
            return err_set(e, -EINTR, "interrupted");
        n = read(s->fd, s->text.data + s->text.len, s->text.cap - s->text.len - 1);
    } while (n < 0 && errno == EINTR);
    if (n == 0 && stop_requested())
        return err_set(e, -EINTR, "interrupted"); /* the sender may have been stopped with us */
    if (n < 0)
        return err_set(e, -EIO, "cannot read standard input: %s", err_errno(errno));
    s->text.len += (size_t)n;
    s->text.data[s->text.len] = '\0';
    s->eof = n == 0;
    return 0;
}

/* The next line without its line feed; *ret_line NULL at the end of input. */
static int next_line(struct stdin_source *s, char **ret_line, size_t *ret_len, struct err *e)
{
    size_t searched = 0;

    for (;;) {
        char *start = s->text.data ? s->text.data + s->pos : NULL;
        size_t rest = s->text.len - s->pos;
        char *end =
            start && rest > searched ? memchr(start + searched, '\n', rest - searched) : NULL;
        int code;

        if (end || (s->eof && rest)) {
            *ret_line = start;
            *ret_len = end ? (size_t)(end - start) : rest;
            s->pos += *ret_len + (end ? 1 : 0);
            s->line++;
            return 0;
        }
        if (s->eof) {
            *ret_line = NULL;
            return 0;
        }
        searched = rest;
        code = fill(s, e);
        if (code)
            return code;
    }
}

/* ---- the first line ---- */

static int read_names(struct arena *a, struct json_val v, const char **texts, bool may_null,
                      struct err *e)
{
    struct json_iter it;

    json_iter_init(&it, v);
    for (size_t i = 0; json_next(&it); i++) {
        struct slice s;

        if (may_null && json_is_null(it.val))
            continue;
        if (json_string_z(a, it.val, &s) || (s.len && memchr(s.p, '\0', s.len)))
            return err_set(e, -EINVAL, "standard input: line 1: a name or type is no text");
        texts[i] = s.p;
    }
    return 0;
}

/* How the sender has sorted: as the first key shows, or as a database sorts that key. */
static int read_order(struct json_val v, enum key_order order[LIMIT_KEY_COLUMNS], struct err *e)
{
    struct json_val said = json_get(v, "order");
    bool database = !json_is_null(said);

    if (database && !slice_eq_str(said.raw, "\"database\""))
        return err_set(e, -EINVAL, "standard input: line 1: order must be \"database\" or absent");
    for (size_t i = 0; i < LIMIT_KEY_COLUMNS; i++)
        order[i] = database ? KEY_DISTINCT : KEY_BY_VALUE;
    return 0;
}

static int read_header(struct stdin_source *s, struct arena *a, struct json_val v,
                       struct builder *b, struct err *e)
{
    struct json_val columns = json_get(v, "columns"), types = json_get(v, "types");
    size_t n = columns.kind == JSON_K_ARRAY ? json_len(columns) : 0;
    const char **names = arena_alloc_array(a, n + 1, sizeof(*names));
    const char **type_names = arena_alloc_array(a, n + 1, sizeof(*type_names));
    enum key_order order[LIMIT_KEY_COLUMNS];
    int code;

    if (!names || !type_names)
        return -ENOMEM;
    if (n == 0 || n > LIMIT_COLUMNS)
        return err_set(
            e, -EINVAL,
            "standard input: line 1 must be {\"columns\": [names], \"types\": [...] or null}");
    if (!json_is_null(types) && json_len(types) != n)
        return err_set(e, -EINVAL, "standard input: line 1: %zu types for %zu columns",
                       json_len(types), n);
    code = read_names(a, columns, names, false, e);
    if (!code && !json_is_null(types))
        code = read_names(a, types, type_names, true, e);
    if (code)
        return code;
    code = read_order(v, order, e);
    if (code)
        return code;
    s->trailer = json_get(v, "trailer").kind == JSON_K_TRUE;
    s->width = n;
    s->fields = calloc(n, sizeof(*s->fields));
    s->kinds = calloc(n, sizeof(*s->kinds));
    if (!s->fields || !s->kinds)
        return -ENOMEM;
    return builder_columns(b, names, type_names, n, order, e);
}

int stdin_source_prepare(struct stdin_source *s, struct builder *b, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct json_val v = {0};
    char *line;
    size_t len;
    int code;

    if (!a)
        return -ENOMEM;
    code = next_line(s, &line, &len, e);
    if (code)
        return code;
    if (!line)
        return err_set(e, -EINVAL,
                       "standard input is empty: its first line must be {\"columns\": [...]}");
    code = json_scan((struct slice){line, len}, &v, NULL);
    if (code == -ENOMEM)
        return code;
    if (code || v.kind != JSON_K_OBJECT)
        return err_set(e, -EINVAL,
                       "standard input: line 1 must be the object {\"columns\": [...]}");
    return read_header(s, a, v, b, e);
}

/* ---- rows ---- */

static int read_trailer(struct stdin_source *s, struct slice text, const struct builder *b,
                        struct err *e)
{
    struct json_val v = {0};
    int64_t rows = -1;

    if (json_scan(text, &v, NULL) || json_i64(json_get(v, "rows"), &rows))
        return err_set(e, -EINVAL,
                       "standard input: line %lld is neither an array nor {\"rows\": n}",
                       (long long)s->line);
    (void)!num_parse_f64(json_get(v, "compute_seconds").raw, &s->compute_s);
    (void)!num_parse_f64(json_get(v, "row_seconds").raw, &s->row_s);
    (void)!num_parse_f64(json_get(v, "row_wal_bytes").raw, &s->row_wal);
    if (rows != builder_total(b))
        return err_set(e, -EINVAL, "standard input: %lld rows came, but the sender counted %lld",
                       (long long)builder_total(b), (long long)rows);
    s->ended = true;
    return 0;
}

static int one_line(struct stdin_source *s, char *line, size_t len, struct builder *b,
                    struct err *e)
{
    struct err why = ERR_INIT;
    size_t n;
    int code;

    if (s->ended)
        return err_set(e, -EINVAL, "standard input: line %lld comes after the trailer",
                       (long long)s->line);
    if (len && line[0] == '{')
        return read_trailer(s, (struct slice){line, len}, b, e);
    code = batch_row_parse(line, len, s->width, s->fields, s->kinds, &n, &why);
    if (code)
        return err_set(e, -EINVAL, "standard input: line %lld: %s", (long long)s->line,
                       err_text(&why, code));
    return builder_row(b, s->fields, s->kinds, n, e);
}

int stdin_source_run(struct stdin_source *s, struct builder *b, struct err *e)
{
    char *line;
    size_t len;

    for (;;) {
        int code = next_line(s, &line, &len, e);

        if (code)
            return code;
        if (!line)
            break;
        code = one_line(s, line, len, b, e);
        if (code)
            return code;
    }
    if (s->trailer && !s->ended)
        return err_set(e, -EINVAL,
                       "standard input ended after %lld rows without its trailer: the sender was "
                       "interrupted, run it again",
                       (long long)builder_total(b));
    return 0;
}
