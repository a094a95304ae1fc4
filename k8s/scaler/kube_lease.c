/* SPDX-License-Identifier: Apache-2.0 */
/* The Lease as lock and memory: one GET and one PUT by resourceVersion take it, one PUT gives it up with what is to be
 * remembered.
 *
 * What must never happen: two runs that both believe they hold it. Who reads it free and writes first wins, the other's
 * PUT is a 409. A PUT whose answer was lost counts only when the Lease then shows our own renewTime. Time is the API
 * server's, so that clocks of nodes do not matter. */

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "k8s/scaler/kube_priv.h"

#include <errno.h>

struct lease_call {
    struct kube *k;
    char *path, *what;
};

static void lease_call_deinit(struct lease_call *c)
{
    free(c->path);
    free(c->what);
}

DEFINE_CLEANUP_VALUE(struct lease_call, lease_call_deinit)

static int lease_call_init(struct lease_call *c, struct kube *k, const char *lease, struct err *e)
{
    CLEANUP(buf_deinit) struct buf path = BUF_INIT;
    int code = kube_check_name("Lease", lease, e);

    if (code)
        return code;
    c->k = k;
    kube_path(k, "/apis/coordination.k8s.io/v1", &path);
    buf_appendf(&path, "leases/%s", lease);
    c->path = buf_take(&path);
    if (asprintf(&c->what, "leases/%s", lease) < 0)
        c->what = NULL;
    return c->path && c->what ? 0 : -ENOMEM;
}

/* The Lease as it stands there, and its text. */
static int read_lease(const struct lease_call *c, struct answer_lease *ret_l, char **ret_text,
                      struct err *e)
{
    CLEANUP(kube_reply_deinit) struct kube_reply r = {0};
    struct kube_request q = {.method = "GET", .path = c->path, .what = c->what, .repeatable = true};
    int code = kube_call(c->k, &q, &r, e);

    if (code)
        return code;
    code = answer_lease(buf_slice(&r.body), ret_l, e);
    if (code)
        return kube_bad_answer(&q, code, e);
    if (!c->k->date_us)
        return err_set(e, KUBE_E_UNREACHABLE, "GET %s: the answer has no Date", c->what);
    free(*ret_text);
    *ret_text = buf_take(&r.body);
    return *ret_text ? 0 : -ENOMEM;
}

/* Does the Lease show what we wrote? */
static bool is_ours(const struct answer_lease *l, const struct lease_change *w)
{
    int64_t renewed = 0;

    if (clock_iso_parse(slice_str(w->renewed), &renewed))
        return false;
    return str_eq(l->holder ? l->holder : "", w->holder) && l->renewed_us == renewed;
}

/* After a PUT whose answer was lost. *again: nothing has changed, it may be sent once more. */
static int look_again(const struct lease_call *c, const struct lease_change *w,
                      const struct answer_lease *before, bool *again, struct err *e)
{
    CLEANUP(answer_lease_deinit) struct answer_lease now = {0};
    int code = read_lease(c, &now, &c->k->lease_text, e);

    *again = false;
    if (code)
        return err_prefix(e, code, "whether %s was written is not known", c->what);
    if (is_ours(&now, w))
        return 0;
    *again = str_eq(now.resource_version, before->resource_version);
    return *again ? KUBE_E_UNREACHABLE
                  : err_set(e, KUBE_E_CONFLICT, "%s: another scaler has taken it", c->what);
}

static int put_lease(const struct lease_call *c, const struct lease_change *w, struct kube_reply *r,
                     struct err *e)
{
    CLEANUP(buf_deinit) struct buf path = BUF_INIT;
    CLEANUP(buf_deinit) struct buf body = BUF_INIT;
    struct kube_request q = {.method = "PUT", .what = c->what, .content_type = "application/json"};
    int code = lease_rewrite(slice_str(c->k->lease_text), w, &body);

    buf_appendf(&path, "%s?fieldManager=" KUBE_FIELD_MANAGER, c->path);
    if (code || buf_ok(&path))
        return -ENOMEM;
    q.path = path.data;
    q.body = buf_slice(&body);
    code = kube_call(c->k, &q, r, e);
    if (code)
        return code;
    free(c->k->lease_text);
    c->k->lease_text = buf_take(&r->body);
    return c->k->lease_text ? 0 : -ENOMEM;
}

static int write_lease(const struct lease_call *c, const struct lease_change *w,
                       const struct answer_lease *before, struct err *e)
{
    bool again = true;
    int code = 0;

    for (int i = 0; again && i < KUBE_ATTEMPTS; i++) {
        CLEANUP(kube_reply_deinit) struct kube_reply r = {0};
        struct err now = ERR_INIT;

        again = false;
        code = put_lease(c, w, &r, &now);
        if (code && r.unclear && kube_pause(c->k, i, r.retry_after_ms) == 0) {
            struct err looked = ERR_INIT;

            code = look_again(c, w, before, &again, &looked);
            if (!again)
                now = looked;
        }
        if (e)
            *e = now;
    }
    return code;
}

static int check_free(const struct lease_call *c, const struct answer_lease *l, const char *holder,
                      struct err *e)
{
    int64_t until = l->renewed_us + l->duration_us;
    char text[KUBE_TIME_SIZE];

    if (!l->holder || str_eq(l->holder, holder) || until <= kube_now_us(c->k))
        return 0;
    kube_time_text(until, text);
    return err_set(e, KUBE_E_CONFLICT, "%s is held by %.200s until %s", c->what, l->holder, text);
}

int kube_lease_take(struct kube *k, const char *lease, const char *holder, int64_t duration_s,
                    char **ret_state, struct err *e)
{
    CLEANUP(lease_call_deinit) struct lease_call c = {0};
    CLEANUP(answer_lease_deinit) struct answer_lease l = {0};
    CLEANUP(mem_free) char *own = slice_dup(slice_str(holder));
    struct lease_change w = {.holder = holder, .duration_s = duration_s};
    char now[KUBE_TIME_SIZE];
    int code = own ? lease_call_init(&c, k, lease, e) : -ENOMEM;

    if (!code)
        code = read_lease(&c, &l, &k->lease_text, e);
    if (!code)
        code = check_free(&c, &l, holder, e);
    if (code)
        return code;
    kube_time_text(kube_now_us(k), now);
    w.renewed = now;
    w.acquired = l.acquired && str_eq(l.holder, holder) ? l.acquired : now;
    w.transitions = l.transitions + (w.acquired == now && l.transitions < INT32_MAX);
    code = write_lease(&c, &w, &l, e);
    if (code)
        return code;
    free(k->lease_holder);
    k->lease_holder = STEAL(own);
    k->lease_duration_s = duration_s;
    *ret_state = STEAL(l.state);
    return 0;
}

int kube_lease_put(struct kube *k, const char *lease, const char *state, bool keep, struct err *e)
{
    CLEANUP(lease_call_deinit) struct lease_call c = {0};
    CLEANUP(answer_lease_deinit) struct answer_lease l = {0};
    struct lease_change w = {.state = state};
    char now[KUBE_TIME_SIZE];
    int code = lease_call_init(&c, k, lease, e);

    ASSERT(k->lease_text && k->lease_holder);
    if (!code && state && strlen(state) > LIMIT_KUBE_STATE)
        return err_set(e, KUBE_E_CONFIG, "PUT %s: the state is larger than %u bytes", c.what,
                       LIMIT_KUBE_STATE);
    if (!code)
        code = answer_lease(slice_str(k->lease_text), &l, e);
    if (code)
        return code == -ENOMEM || code > 0 ? code : KUBE_E_UNREACHABLE;
    kube_time_text(kube_now_us(k), now);
    w.holder = keep ? k->lease_holder : "";
    w.renewed = now;
    w.acquired = l.acquired;
    w.duration_s = k->lease_duration_s;
    w.transitions = l.transitions;
    return write_lease(&c, &w, &l, e);
}

int kube_lease_peek(struct kube *k, const char *lease, char **ret_state, struct err *e)
{
    CLEANUP(lease_call_deinit) struct lease_call c = {0};
    CLEANUP(answer_lease_deinit) struct answer_lease l = {0};
    CLEANUP(mem_free) char *text = NULL;
    int code = lease_call_init(&c, k, lease, e);

    if (!code)
        code = read_lease(&c, &l, &text, e);
    if (!code)
        *ret_state = STEAL(l.state);
    return code;
}
