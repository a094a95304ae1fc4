/* SPDX-License-Identifier: Apache-2.0 */
/* Cases in, decisions out: for tests, for simulators, and for users who ask why (a logged sample is a case). */

#include "k8s/scaler/replay.h"

#include "celeryc/base/limits.h"
#include "k8s/scaler/memory.h"
#include "k8s/scaler/rules.h"

#include <errno.h>
#include <stdlib.h>

struct kase {
    struct json_val name, expect;
    struct decide_rules rules;
    struct memory memory;
    struct decide_sample sample;
};

static int read_part(struct kase *k, struct slice name, struct json_val v, struct err *e)
{
    int r = 0;

    if (slice_eq_str(name, "\"rules\""))
        r = fields_read(rule_fields, &k->rules, v, e);
    else if (slice_eq_str(name, "\"sample\""))
        r = fields_read(sample_fields, &k->sample, v, e);
    else if (slice_eq_str(name, "\"state\""))
        memory_deinit(&k->memory), r = memory_parse(v.raw, &k->memory, e);
    else if (slice_eq_str(name, "\"expect\""))
        k->expect = v;
    else if (slice_eq_str(name, "\"name\""))
        k->name = v;
    else
        return err_set(e, -EINVAL, "%.*s is not known", (int)MIN(name.len, 80), name.p);
    return r ? err_prefix(e, r, "%.*s", (int)name.len, name.p) : 0;
}

static int read_case(struct kase *k, struct json_val v, struct err *e)
{
    struct json_iter it;
    int r = 0;

    if (v.kind != JSON_K_OBJECT)
        return err_set(e, -EINVAL, "no JSON object");
    decide_rules_default(&k->rules);
    sample_default(&k->sample);
    for (json_iter_init(&it, v); r == 0 && json_next(&it);)
        r = read_part(k, it.key.raw, it.val, e);
    return r ? r : rules_check(&k->rules, e);
}

/* The expected state may leave out what is as at the start. */
static int same_state(struct json_val expected, const struct buf *state, bool *ret_same,
                      struct err *e)
{
    CLEANUP(memory_deinit) struct memory m;
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    int r;

    memory_init(&m);
    r = memory_parse(expected.raw, &m, e);
    if (r)
        return err_prefix(e, r, "\"expect\": \"state\"");
    memory_write(&text, &m);
    *ret_same = slice_eq(buf_slice(&text), buf_slice(state));
    return buf_ok(&text);
}

static int is_expected(const struct kase *k, const struct decision *d, const struct buf *state,
                       bool *ret_same, struct err *e)
{
    struct json_val target = json_get(k->expect, "target"), reason = json_get(k->expect, "reason"),
                    after = json_get(k->expect, "state");
    const char *text = decide_reason_text(d->reason);
    int64_t n = 0;

    *ret_same = true;
    if (target.kind != JSON_K_NONE && (json_i64(target, &n) || n != d->target))
        *ret_same = false;
    if (reason.kind != JSON_K_NONE &&
        (reason.raw.len != strlen(text) + 2 || memcmp(reason.raw.p + 1, text, strlen(text)) != 0))
        *ret_same = false;
    if (after.kind == JSON_K_NONE || !*ret_same)
        return 0;
    return same_state(after, state, ret_same, e);
}

static int write_answer(const struct kase *k, const struct decision *d, FILE *out, bool *differs,
                        struct err *e)
{
    CLEANUP(buf_deinit) struct buf line = BUF_INIT, state = BUF_INIT;
    bool same = true;
    int r;

    memory_write(&state, &k->memory);
    r = buf_ok(&state);
    if (!r && k->expect.kind != JSON_K_NONE)
        r = is_expected(k, d, &state, &same, e);
    if (r)
        return r;
    buf_append_str(&line, "{\"name\": ");
    buf_append_slice(&line, json_is_null(k->name) ? SLICE_LIT("null") : k->name.raw);
    buf_appendf(&line, ", \"target\": %lld, \"reason\": \"%s\", \"capped_by\": \"%s\"",
                (long long)d->target, decide_reason_text(d->reason), decide_cap_text(d->capped_by));
    if (k->expect.kind != JSON_K_NONE)
        buf_appendf(&line, ", \"expected\": %s", same ? "true" : "false");
    buf_appendf(&line, ", \"state\": %s}\n", state.data);
    r = buf_ok(&line);
    if (!r && (fwrite(line.data, 1, line.len, out) != line.len || fflush(out)))
        r = err_set(e, -EIO, "the answer cannot be written: %s", err_errno(errno));
    *differs = *differs || !same;
    return r;
}

static int replay_case(struct json_val v, FILE *out, bool *differs, struct err *e)
{
    struct kase k = {0};
    struct decision d;
    int r;

    memory_init(&k.memory);
    r = read_case(&k, v, e);
    if (r == 0) {
        decide(&k.rules, &k.memory.d, &k.sample, &d);
        r = write_answer(&k, &d, out, differs, e);
    }
    memory_deinit(&k.memory);
    return r;
}

static int replay_text(struct slice text, size_t *n, FILE *out, bool *differs, struct err *e)
{
    struct json_val v;
    struct json_iter it;
    int r = json_scan(text, &v, e);

    if (r == 0 && v.kind != JSON_K_ARRAY) {
        ++*n;
        r = replay_case(v, out, differs, e);
    } else if (r == 0) {
        for (json_iter_init(&it, v); r == 0 && json_next(&it);) {
            ++*n;
            r = replay_case(it.val, out, differs, e);
        }
    }
    return r ? err_prefix(e, r, "case %zu", *n) : 0;
}

static bool is_blank(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!strchr(" \t\r\n", s.p[i]))
            return false;
    return true;
}

static int replay_lines(FILE *in, FILE *out, bool *differs, struct err *e)
{
    CLEANUP(mem_free) char *line = NULL;
    size_t cap = 0, n = 0;
    ssize_t len;
    int r = 0;

    while (r == 0 && (len = getline(&line, &cap, in)) >= 0) {
        struct slice s = {line, (size_t)len};

        if (!is_blank(s))
            r = replay_text(s, &n, out, differs, e);
    }
    return r ? r : ferror(in) ? err_set(e, -EIO, "%s", err_errno(errno)) : 0;
}

static int replay_whole(FILE *in, FILE *out, bool *differs, struct err *e)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    char piece[8192];
    size_t len, n = 0;

    while ((len = fread(piece, 1, sizeof(piece), in)) > 0)
        buf_append(&text, piece, len);
    if (ferror(in))
        return err_set(e, -EIO, "%s", err_errno(errno));
    return buf_ok(&text) ? -ENOMEM : replay_text(buf_slice(&text), &n, out, differs, e);
}

int replay(const char *path, FILE *out, struct err *e)
{
    bool differs = false;
    FILE *in = str_eq(path, "-") ? stdin : fopen(path, "re");
    int r, first;

    if (!in)
        return err_set(e, -errno, "%s: %s", path, err_errno(errno));
    do
        first = getc(in);
    while (first != EOF && strchr(" \t\r\n", first));
    (void)ungetc(first, in);
    r = first == '[' ? replay_whole(in, out, &differs, e) : replay_lines(in, out, &differs, e);
    if (in != stdin)
        (void)fclose(in);
    if (r)
        return err_prefix(e, r, "%s", path);
    return differs ? err_set(e, REPLAY_E_DIFFERS, "%s: not every case came out as expected", path)
                   : 0;
}
