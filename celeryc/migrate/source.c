/* SPDX-License-Identifier: Apache-2.0 */
/* The batch file: fetched, its SHA-256 and its header checked against the message, parsed. Nothing of it is used before
 * all of that has passed. */

#include "celeryc/base/limits.h"
#include "celeryc/migrate/runtime.h"
#include "celeryc/store/store.h"

#include <errno.h>
#include <strings.h>

#define FETCH_LIMIT_MS 60000

static enum work_end fetch_failed(int code, const char *url, struct err *e, struct failure *f)
{
    const char *class = "OSError";

    if (code == STORE_E_NOT_FOUND)
        class = "FileNotFoundError";
    else if (code == STORE_E_DENIED)
        class = "PermissionError";
    else if (code == STORE_E_TRANSIENT)
        class = "ConnectionError";
    else if (code == -ENOMEM)
        class = "MemoryError";
    failure_set(f, class, code == STORE_E_TRANSIENT || code == -ENOMEM,
                "cannot fetch the batch file %s: %s", url, err_text(e, code < 0 ? code : -EIO));
    return f->transient ? WORK_RETRY : WORK_FAILED;
}

static int get_object(const char *url, struct buf *object, struct err *e)
{
    CLEANUP(mem_free) char *store_text = NULL, *name = NULL;
    CLEANUP(store_close) struct store *store = NULL;
    int r = store_split(url, &store_text, &name, e);

    if (!r)
        r = store_open(store_text, &store, e);
    if (!r)
        r = store_get(store, name, FETCH_LIMIT_MS, object, e);
    return r;
}

static enum work_end refuse(struct failure *f, const char *what, const struct job *j)
{
    failure_set(f, "ValueError", false, "%s (plan %s, batch %lld, %s)", what, j->plan,
                (long long)j->number, j->source);
    return WORK_FAILED;
}

static bool has_column(const struct batch_header *h, const char *name)
{
    for (size_t i = 0; i < h->n_columns; i++)
        if (str_eq(h->columns[i], name))
            return true;
    return false;
}

static enum work_end check_reads(const struct job *j, const struct batch_header *h,
                                 struct failure *f)
{
    for (size_t i = 0; i < migrate_columns(j->m->reads); i++) {
        if (!has_column(h, j->m->reads[i])) {
            failure_set(f, "ValueError", false,
                        "the batch file has no column %s, which migration %s reads: the query must "
                        "select it (plan %s)",
                        j->m->reads[i], j->m->name, j->plan);
            return WORK_FAILED;
        }
    }
    return WORK_DONE;
}

static enum work_end check_header(const struct job *j, const struct batch_header *h,
                                  struct failure *f)
{
    if (!str_eq(h->plan, j->plan) || h->batch != j->number)
        return refuse(f, "the batch file is of another plan or batch than its message", j);
    if (!str_eq(h->migration, j->m->name))
        return refuse(f, "the batch file is for another migration", j);
    return check_reads(j, h, f);
}

enum work_end source_fetch(struct job *j, struct failure *f)
{
    CLEANUP(buf_deinit) struct buf object = BUF_INIT;
    struct err e = ERR_INIT;
    char sha256[65];
    int r = get_object(j->source, &object, &e);

    if (r)
        return fetch_failed(r, j->source, &e, f);
    batch_sha256(buf_slice(&object), sha256);
    if (j->sha256 && strcasecmp(j->sha256, sha256) != 0)
        return refuse(f, "the batch file is not the planned one: its SHA-256 differs", j);
    j->sha256 = arena_strdup(j->arena, slice_str(sha256));
    r = j->sha256 ? batch_parse(buf_slice(&object), &j->batch, &e) : -ENOMEM;
    if (r == -ENOMEM)
        return fetch_failed(r, j->source, &e, f);
    if (r) {
        failure_set(f, "ValueError", false, "the batch file %s is damaged: %s", j->source,
                    err_text(&e, r));
        return WORK_FAILED;
    }
    enum work_end end = check_header(j, batch_get_header(j->batch), f);

    if (end == WORK_DONE)
        end = restore_prepare(j, f);
    if (end == WORK_DONE)
        end = sql_prepare(j, f);
    return end == WORK_DONE ? check_reads(j, batch_get_header(j->batch), f) : end;
}
