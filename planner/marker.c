/* SPDX-License-Identifier: Apache-2.0 */
/* The marker of a plan in the making: {"format": 1, "plan", "nonce", "started"}. It is there from before the first
 * batch until after the manifest. Two planners on one plan id: the one whose nonce is gone gives up before its commit
 * point. */

#include "planner/marker.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/message/json.h"

#include <errno.h>

#define DELETE_MS 5000

char *plan_object(const char *plan, const char *name)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_appendf(&b, "%s/%s", plan, name);
    return buf_take(&b);
}

static int get(struct store *s, const char *plan, struct buf *dst, struct err *e)
{
    CLEANUP(mem_free) char *name = plan_object(plan, MARKER_NAME);

    return name ? store_get(s, name, 0, dst, e) : -ENOMEM;
}

int marker_find(struct store *s, const char *plan, bool *ret_found, struct err *e)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct err why = ERR_INIT;
    int code = get(s, plan, &b, &why);

    if (code && code != STORE_E_NOT_FOUND)
        return err_set(e, code, "%s", err_text(&why, code));
    *ret_found = code == 0;
    return 0;
}

int marker_put(struct store *s, const char *plan, char nonce[33], struct err *e)
{
    CLEANUP(mem_free) char *name = plan_object(plan, MARKER_NAME);
    CLEANUP(buf_deinit) struct buf b = BUF_INIT, hex = BUF_INIT;
    char started[CLOCK_ISO_SIZE];
    unsigned char r[16];

    random_bytes(r, sizeof(r));
    hex_encode(&hex, (struct slice){(char *)r, sizeof(r)});
    clock_iso_format(clock_wall_us(), started);
    if (!name || buf_ok(&hex))
        return -ENOMEM;
    buf_append_str(&b, "{\"format\": 1, \"plan\": ");
    json_write_string(&b, slice_str(plan));
    buf_appendf(&b, ", \"nonce\": \"%s\", \"started\": \"%s\"}\n", hex.data, started);
    if (buf_ok(&b))
        return -ENOMEM;
    (void)snprintf(nonce, 33, "%s", hex.data);
    return store_put(s, name, buf_slice(&b), "application/json", 0, e);
}

int marker_check(struct store *s, const char *plan, const char *nonce, struct err *e)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct err why = ERR_INIT;
    int code = get(s, plan, &b, &why);

    if (code && code != STORE_E_NOT_FOUND)
        return err_set(e, code, "%s", err_text(&why, code));
    if (code || !memmem(b.data, b.len, nonce, strlen(nonce)))
        return err_set(e, -EBUSY, "another scatter-plan is making plan %s: let it finish", plan);
    return 0;
}

int marker_delete(struct store *s, const char *plan, struct err *e)
{
    CLEANUP(mem_free) char *name = plan_object(plan, MARKER_NAME);

    return name ? store_delete(s, name, DELETE_MS, e) : -ENOMEM;
}
