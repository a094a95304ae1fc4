/* SPDX-License-Identifier: Apache-2.0 */
/* The objects of a plan in the making: its manifest, and taking away what no plan needs. */

#include "planner/create.h"

#include "planner/marker.h"

/* Batches are uploaded by several threads, so a killed planner's objects may have gaps, each no longer than there were
 * threads. */
#define GAP_MAX ((int)UPLOAD_THREADS_MAX)

static char *batch_name(const struct creation *c, int64_t batch)
{
    char object[40];

    batch_object_name(batch, object);
    return plan_object(c->request.plan, object);
}

static int batch_is_there(struct creation *c, int64_t batch, bool *ret_found, struct err *e)
{
    CLEANUP(buf_deinit) struct buf bytes = BUF_INIT;
    CLEANUP(mem_free) char *name = batch_name(c, batch);
    struct err why = ERR_INIT;
    int code = name ? store_get(c->servers.store, name, 0, &bytes, &why) : -ENOMEM;

    *ret_found = code == 0;
    if (code == 0 || code == STORE_E_NOT_FOUND)
        return 0;
    return err_set(e, final(code), "%s", err_text(&why, code));
}

int creation_delete_leftovers(struct creation *c, int64_t above, struct err *e)
{
    int64_t last = above;
    int code = 0;

    for (int64_t i = above + 1; i - last <= GAP_MAX && !code; i++) {
        bool found = false;

        code = batch_is_there(c, i, &found, e);
        last = found ? i : last;
    }
    for (int64_t i = last; i > above && !code; i--) {
        CLEANUP(mem_free) char *name = batch_name(c, i);

        code = name ? store_delete(c->servers.store, name, 0, e) : -ENOMEM;
    }
    return final(code);
}

int creation_delete_manifest(struct creation *c)
{
    CLEANUP(mem_free) char *name = plan_object(c->request.plan, "manifest.json");

    return name ? store_delete(c->servers.store, name, 5000, NULL) : -ENOMEM;
}

void creation_take_back(struct creation *c)
{
    size_t n = 0;
    int code = 0;

    if (c->upload)
        (void)!upload_wait(c->upload, NULL);
    /* A manifest whose fate is unknown goes first: while it may be there, its objects stay. */
    if (c->committing)
        code = creation_delete_manifest(c);
    if (c->builder)
        (void)builder_batches(c->builder, &n);
    for (size_t i = n; i > 0 && !code; i--) {
        CLEANUP(mem_free) char *name = batch_name(c, (int64_t)i);

        code = name ? store_delete(c->servers.store, name, 2000, NULL) : -ENOMEM;
    }
    if (!code && c->marked)
        (void)!marker_delete(c->servers.store, c->request.plan, NULL);
}

int creation_put_manifest(struct creation *c, const struct manifest *m, struct err *e)
{
    CLEANUP(mem_free) char *name = plan_object(c->request.plan, "manifest.json");
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    int code = manifest_write(&text, m);

    if (code || !name)
        return -ENOMEM;
    c->committing = true;
    return final(store_put(c->servers.store, name, buf_slice(&text), "application/json", 0, e));
}
