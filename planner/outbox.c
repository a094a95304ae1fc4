/* SPDX-License-Identifier: Apache-2.0 */
/* Sending callbacks from a program: through the client library, to the queue of the plan where the signature names none.
 * A chord needs the result backend of the workers (CELERY_RESULT_BACKEND). */

#include "planner/outbox.h"

#include "celeryc/message/json.h"
#include "celeryc/migrate/signature.h"
#include "planner/plan.h"

#include <celeryc/client.h>

#include <errno.h>

#define GROUP 200

struct sender {
    const struct args *args;
    struct celeryc_client *client;
    const char *queue; /* of the client */
    int64_t sent;
};

static const char *backend(void)
{
    const char *url =
        getenv("CELERY_RESULT_BACKEND"); /* NOLINT(concurrency-mt-unsafe): one thread */

    return url && *url ? url : NULL;
}

/* A mistake in a callback is told before there is a plan whose end would meet it. */
static int check_one(const char *option, const char *text, struct err *e)
{
    CLEANUP(buf_deinit) struct buf merged = BUF_INIT;
    struct err why = ERR_INIT;
    int r;

    if (!callback_is_signature(text))
        return *text && !text[strcspn(text, " \t\r\n\"")]
                   ? 0
                   : err_set(e, -EINVAL,
                             "--%s: \"%s\" is neither the name of a task nor a signature as JSON",
                             option, text);
    r = callback_merge(slice_str(text), SLICE_LIT("{}"), &merged, &why);
    if (r)
        return err_set(e, r, "--%s: %s", option, err_text(&why, r));
    struct celeryc_sig *s = celeryc_sig_from_json(merged.data, merged.len);

    if (!s || celeryc_sig_error(s))
        r = err_set(e, -EINVAL, "--%s: %s", option, s ? celeryc_sig_error(s) : "out of memory");
    celeryc_sig_free(s);
    return r;
}

int outbox_check(const struct args *a, struct err *e)
{
    const struct {
        const char *option, *text;
    } callbacks[] = {{"on-planned", a->on_planned},
                     {"on-batch", a->on_batch},
                     {"on-paused", a->on_paused},
                     {"on-failed", a->on_failed},
                     {"on-finish", a->on_finish}};

    int r = 0;

    for (size_t i = 0; i < ARRAY_SIZE(callbacks) && !r; i++)
        if (callbacks[i].text)
            r = check_one(callbacks[i].option, callbacks[i].text, e);
    return r;
}

static int client_for(struct sender *s, const char *queue, struct err *e)
{
    CLEANUP(buf_deinit) struct buf options = BUF_INIT;

    if (s->client && str_eq(s->queue, queue))
        return 0;
    celeryc_client_free(s->client);
    buf_append_str(&options, "{\"task_default_queue\": ");
    json_write_string(&options, slice_str(queue));
    buf_append_str(&options, ", ");
    int r = servers_write_settings(&options, s->args->key_prefix);

    buf_append_char(&options, '}');
    s->client =
        r || buf_ok(&options) ? NULL : celeryc_client_new(s->args->broker, backend(), options.data);
    s->queue = queue;
    if (!s->client)
        return -ENOMEM;
    return celeryc_client_error(s->client)
               ? err_set(e, -EINVAL, "%s", celeryc_client_error(s->client))
               : 0;
}

static struct celeryc_sig *signature(const struct db_outbox_row *row, struct err *e)
{
    CLEANUP(buf_deinit) struct buf merged = BUF_INIT;

    if (!callback_is_signature(row->signature))
        return celeryc_signature(row->signature, NULL, row->kwargs);
    if (callback_merge(slice_str(row->signature), slice_str(row->kwargs), &merged, e))
        return NULL;
    return celeryc_sig_from_json(merged.data, merged.len);
}

static int send_row(struct sender *s, const struct db_outbox_row *row, struct err *e)
{
    CLEANUP(buf_deinit) struct buf options = BUF_INIT;
    int r = client_for(s, row->queue, e);
    struct celeryc_sig *sig = r ? NULL : signature(row, e);
    const char *mistake = sig ? celeryc_sig_error(sig) : NULL;
    struct celeryc_result *result = NULL;

    buf_appendf(&options, "{\"task_id\": \"%s\"}", row->task_id);
    if (!r && mistake)
        r = err_set(e, -EINVAL, "%s", mistake);
    else if (!r && (!sig || buf_ok(&options)))
        r = -EINVAL;
    if (!r) {
        result = celeryc_client_apply(s->client, sig, options.data);
        if (!result)
            r = err_set(e, -EIO, "%s", celeryc_client_error(s->client));
    }
    celeryc_result_free(result);
    celeryc_sig_free(sig);
    return r;
}

static int send_group(struct db *db, struct sender *s, const char *plan, double age_s,
                      size_t *ret_n, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct db_outbox_row *rows = NULL;
    int r = a ? db_outbox_claim(db, plan, age_s, GROUP, a, &rows, ret_n, e) : -ENOMEM;

    for (size_t i = 0; !r && i < *ret_n; i++) {
        struct err why = ERR_INIT;
        int code = send_row(s, &rows[i], &why);

        if (code)
            (void)fprintf(stderr, "scatter-plan: callback %s of plan %s was not sent: %s\n",
                          rows[i].event, rows[i].plan, err_text(&why, code));
        s->sent += code == 0;
        r = db_outbox_sent(db, rows[i].id, code ? err_text(&why, code) : NULL, e);
    }
    celeryc_client_free(s->client); /* its queue's name lived with the rows */
    s->client = NULL;
    return r;
}

int outbox_send_all(struct db *db, const struct args *a, const char *plan, double age_s,
                    int64_t *ret_n, struct err *e)
{
    struct sender s = {.args = a};
    size_t n = 0;
    int r;

    do
        r = send_group(db, &s, plan, age_s, &n, e);
    while (!r && n == GROUP);
    *ret_n = s.sent;
    return r > 0 ? -EIO : r;
}
