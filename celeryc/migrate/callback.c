/* SPDX-License-Identifier: Apache-2.0 */
/* Sending callbacks: what the state changes of this delivery have put into the outbox, and what others left there.
 *
 * Sent right after the commit, before the message is acknowledged. A worker that dies in between leaves the row to the
 * next sender, and its message to the next worker, which finds the batch done and sends the batch's callbacks again:
 * with the same ids, so that no receiver takes them for others. Nothing here makes a batch fail. */

#include "celeryc/migrate/runtime.h"
#include "celeryc/migrate/signature.h"

#include <celeryc/client.h>

#include <errno.h>

#define AT_ONCE     100
#define ABANDONED_S 30.0 /* a row that nobody marked for so long is anybody's */

static int send_signature(struct job *j, const struct db_outbox_row *row, struct err *e)
{
    CLEANUP(buf_deinit) struct buf merged = BUF_INIT, options = BUF_INIT;
    int r = callback_merge(slice_str(row->signature), slice_str(row->kwargs), &merged, e);

    if (r)
        return r;
    buf_appendf(&options, "{\"task_id\": \"%s\"}", row->task_id);
    struct celeryc_sig *s = celeryc_sig_from_json(merged.data, merged.len);
    const char *mistake = s ? celeryc_sig_error(s) : "out of memory";

    if (mistake)
        r = err_set(e, -EINVAL, "%s", mistake);
    else if (buf_ok(&options) || celeryc_apply(j->call, s, options.data, NULL))
        r = err_set(e, -EINVAL, "the signature cannot be applied");
    celeryc_sig_free(s);
    return r;
}

static int send_one(struct job *j, const struct db_outbox_row *row, struct err *e)
{
    if (callback_is_signature(row->signature))
        return send_signature(j, row, e);
    if (celeryc_send(j->call, row->signature, NULL, row->kwargs, NULL, 0, row->task_id))
        return err_set(e, -EINVAL, "the task %s cannot be sent", row->signature);
    return 0;
}

static void send_row(struct job *j, const struct db_outbox_row *row)
{
    struct err e = ERR_INIT, ignored = ERR_INIT;
    int r = send_one(j, row, &e);

    if (r)
        celeryc_log(j->call, CELERYC_ERROR, "callback %s of plan %s was not sent: %s", row->event,
                    row->plan, err_text(&e, r));
    (void)!db_outbox_sent(j->conn->db, row->id, r ? err_text(&e, r) : NULL, &ignored);
}

void callbacks_send(struct job *j, bool again)
{
    struct db_outbox_row *rows = NULL;
    struct err e = ERR_INIT;
    size_t n = 0;
    int r = again ? db_outbox_again(j->conn->db, j->plan, j->number, &e) : 0;

    if (!r)
        r = db_outbox_claim(j->conn->db, j->plan, ABANDONED_S, AT_ONCE, j->arena, &rows, &n, &e);
    if (r)
        celeryc_log(j->call, CELERYC_DEBUG, "the outbox was not looked at: %s", err_text(&e, r));
    for (size_t i = 0; i < n; i++)
        send_row(j, &rows[i]);
}
