/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc doctor: reads a broker, also one that only Python workers use, and says what is wrong with it. */

#include "celeryc/cli/doctor_priv.h"

#include "celeryc/message/json.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#define EX_FINDINGS 1
#define EX_UNREAD   2

struct doctor_options {
    struct cli_common common;
    bool json, fix;
};

#define AT(field) offsetof(struct doctor_options, field)

/* clang-format off */
static const struct opt opts[] = {
    {.name = "fix", .kind = OPT_FLAG, .offset = AT(fix), .help = "Repair what is safe to repair: messages that nobody works on go back to their queues, marked as redelivered."},
    {.name = "json", .kind = OPT_FLAG, .offset = AT(json), .help = "One JSON object for each finding."},
    CLI_COMMON_OPTS,
    {0},
};
/* clang-format on */

const struct opt_table cli_doctor_table = {
    .command = "doctor",
    .usage = "[OPTIONS]",
    .about = "Look for what is wrong at the broker: messages unacknowledged for longer than the "
             "visibility timeout, entries without their other half, ETAs beyond the visibility "
             "timeout, reply lists that nobody reads, dead and silent workers, growing queues, "
             "dead letters, a server that may evict keys. Useful with Python workers alone, too. "
             "Give it the workers' broker_transport_options by --config. Exit code 0: healthy, 1: "
             "there are findings, 2: the broker could not be read.",
    .opts = opts,
};

void doctor_found(struct doctor *d, const char *check, uint64_t n, uint64_t fixed, const char *fmt,
                  ...)
{
    char text[512];
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    d->n_open += fixed < n;
    if (d->json) {
        buf_appendf(&out, "{\"check\": \"%s\", \"n\": %llu, \"fixed\": %llu, \"text\": ", check,
                    (unsigned long long)n, (unsigned long long)fixed);
        json_write_string(&out, slice_str(text));
        buf_append_str(&out, "}\n");
    } else {
        buf_appendf(&out, "%-14s ", check);
        cli_write_plain(&out, slice_str(text));
        if (fixed)
            buf_appendf(&out, " Repaired: %llu.", (unsigned long long)fixed);
        buf_append_char(&out, '\n');
    }
    if (buf_ok(&out) || fwrite(out.data, 1, out.len, stdout) != out.len)
        d->failed = true;
}

static int name_keys(struct doctor *d)
{
    const struct settings *s = &d->b.s;
    d->unacked = cli_key(&d->b, "%s", s->unacked_key ? s->unacked_key : "unacked");
    d->index = cli_key(&d->b, "%s", s->unacked_index_key ? s->unacked_index_key : "unacked_index");
    d->mutex = cli_key(&d->b, "%s", s->unacked_mutex_key ? s->unacked_mutex_key : "unacked_mutex");
    d->arena = arena_new();
    return d->unacked && d->index && d->mutex && d->arena ? 0 : -ENOMEM;
}

static int examine(struct doctor *d, struct err *e)
{
    /* The silent workers are waited for between the two looks at the queues. */
    static int (*const checks[])(struct doctor *, struct err *) = {
        doctor_queues_begin, doctor_memory,       doctor_overdue, doctor_pairs,  doctor_delayed,
        doctor_dead_letters, doctor_dead_workers, doctor_replies, doctor_silent, doctor_queues_end,
    };
    int r = name_keys(d);
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(checks); i++) {
        r = checks[i](d, e);
        if (d->arena)
            arena_reset(d->arena);
    }
    return r == 0 && d->failed ? -EIO : r;
}

int cmd_doctor(int argc, char **argv)
{
    struct doctor_options o = {.fix = false};
    struct doctor d = {.n_open = 0};
    struct err e = ERR_INIT;
    int code = CLI_EX_FAILED;
    if (cli_begin(&cli_doctor_table, argc, argv, &o, NULL, &code) == 0) {
        d.json = o.json;
        d.fix = o.fix;
        int r = cli_broker_open(&d.b, &o.common, &e);
        if (r == 0)
            r = examine(&d, &e);
        if (r < 0)
            (void)cli_fail(&e, r);
        if (r == 0 && d.n_open == 0 && !d.json)
            (void)puts("No open findings.");
        code = r ? EX_UNREAD : d.n_open ? EX_FINDINGS : 0;
        cli_broker_close(&d.b);
    }
    free(d.unacked);
    free(d.index);
    free(d.mutex);
    free(d.lengths);
    strv_deinit(&d.queues);
    d.arena = arena_free(d.arena);
    opt_clear(&cli_doctor_table, &o);
    return code;
}
