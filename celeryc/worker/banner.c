/* SPDX-License-Identifier: Apache-2.0 */
/* Two columns: a mark on the left, facts on the right. Passwords never get here: URLs are the masked ones. */

#include "celeryc/worker/banner.h"

#include <string.h>

static const char *const mark[] = {
    " --------------", "--- ***** -----", "-- ******* ----", "- *** --- * ---",
    "- ** ----------", "- ** ----------", "- ** ----------", "- ** ----------",
    "- *** --- * ---", "-- ******* ----", "--- ***** -----", " --------------",
};

/* Queues sorted by name, in Celery's words. */
static void write_queues(struct buf *dst, const struct strv *queues)
{
    const char *last = NULL;
    for (size_t done = 0; done < queues->n; done++) {
        const char *least = NULL;
        for (size_t i = 0; i < queues->n; i++) {
            const char *q = queues->v[i];
            if (q && (!last || strcmp(q, last) > 0) && (!least || strcmp(q, least) < 0))
                least = q;
        }
        if (!least)
            return;
        buf_appendf(dst, ".> %-16s exchange=%s(direct) key=%s\n", least, least, least);
        last = least;
    }
}

static void write_facts(struct buf *dst, const struct worker_config *c, const char *version,
                        const char *platform, const char *now)
{
    buf_appendf(dst, "%s v%s (celeryc)\n\n%s %s\n\n[config]\n", c->node, version, platform, now);
    buf_append_str(dst, ".> app:         ");
    for (size_t i = 0; i < c->apps.n; i++)
        buf_appendf(dst, "%s%s", i ? ", " : "", c->apps.v[i]);
    buf_appendf(dst, "%s\n.> transport:   %s\n.> results:     %s\n", c->apps.n ? "" : "(none)",
                c->broker.masked, c->has_backend ? c->backend.masked : "disabled://");
    buf_appendf(dst, ".> concurrency: %zu (%s)\n", c->concurrency, config_pool_name(c->pool));
    buf_append_str(dst, ".> task events: OFF\n\n[queues]\n");
    write_queues(dst, &c->queues);
}

static void write_tasks(struct buf *dst, const struct task_registry *table, enum log_level level)
{
    buf_append_str(dst, "\n[tasks]\n");
    for (size_t i = 0; i < task_registry_len(table); i++) {
        const char *name = task_registry_at(table, i)->name;
        if (level == LOG_DEBUG || strncmp(name, "celery.", 7) != 0)
            buf_appendf(dst, "  . %s\n", name);
    }
}

void banner_write(struct buf *dst, const struct worker_config *c, const struct task_registry *table,
                  const char *version, const char *platform, const char *now)
{
    struct buf facts = BUF_INIT;
    write_facts(&facts, c, version, platform, now);
    buf_append_str(dst, " \n");
    size_t row = 0;
    for (const char *p = facts.data; p && *p; row++) {
        size_t len = strcspn(p, "\n");
        buf_appendf(dst, "%-15s %.*s\n", row < ARRAY_SIZE(mark) ? mark[row] : "", (int)len, p);
        p += len + (p[len] == '\n');
    }
    buf_deinit(&facts);
    if (c->loglevel <= LOG_INFO)
        write_tasks(dst, table, c->loglevel);
    buf_append_char(dst, '\n');
}
