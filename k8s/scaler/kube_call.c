/* SPDX-License-Identifier: Apache-2.0 */
/* A request with its further attempts, all inside the deadline of the run.
 *
 * Reads are sent again after anything that time may heal. A write is sent again only when it surely was not carried out
 * (no connection, 429); whenever it may have been, the reply says `unclear` and the caller looks before it acts again.
 * A 401 is tried once more at once with the token read anew: kubelets renew it while we run. */

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "k8s/scaler/kube_priv.h"

#include <errno.h>
#include <time.h>

static int64_t left_ms(const struct kube *k)
{
    return (k->until_ns - clock_mono_ns()) / NS_PER_MS;
}

/* 200 ms, 400 ms, ...: between half of it and all, so that many scalers do not come back at once. */
static int64_t backoff_ms(int attempt)
{
    int64_t most = INT64_C(200) << attempt;
    uint16_t r;

    random_bytes(&r, sizeof(r));
    return most / 2 + most / 2 * r / UINT16_MAX;
}

int kube_pause(const struct kube *k, int attempt, int64_t retry_after_ms)
{
    int64_t ms = retry_after_ms > 0 ? retry_after_ms : backoff_ms(attempt);
    struct timespec ts = {ms / 1000, ms % 1000 * NS_PER_MS};

    if (ms >= left_ms(k))
        return KUBE_E_UNREACHABLE;
    while (nanosleep(&ts, &ts) && errno == EINTR)
        continue;
    return 0;
}

/* What may stand in a header. */
static bool is_token(const char *s)
{
    for (; *s; s++) {
        if ((unsigned char)*s <= 0x20 || (unsigned char)*s >= 0x7f)
            return false;
    }
    return true;
}

int kube_read_token(struct kube *k, struct err *e)
{
    CLEANUP(mem_free) char *text = NULL;
    int code = 0;

    if (!k->access.token_file && k->token)
        return 0;
    if (k->access.token_file)
        code = kube_read_file(k->access.token_file, &text, e);
    else
        text = slice_dup(slice_str(k->access.token));
    if (code && code != -ENOMEM)
        return KUBE_E_AUTH;
    if (!text)
        return -ENOMEM;
    if (!is_token(text) || (k->access.token_file && !*text))
        return err_set(e, KUBE_E_AUTH, "%s holds no token",
                       k->access.token_file ? k->access.token_file : "the kubeconfig");
    free(k->token);
    k->token = STEAL(text);
    return 0;
}

/* The write may have been carried out though we cannot tell. */
static bool is_unclear(const struct kube_reply *r)
{
    if (r->curl == CURLE_OK)
        return r->status == 408 || r->status >= 500;
    return r->curl != CURLE_COULDNT_CONNECT && r->curl != CURLE_COULDNT_RESOLVE_HOST &&
           r->curl != CURLE_COULDNT_RESOLVE_PROXY && r->curl != CURLE_SSL_CONNECT_ERROR &&
           r->curl != CURLE_PEER_FAILED_VERIFICATION;
}

static int try_once(struct kube *k, const struct kube_request *q, struct kube_reply *r,
                    struct err *e)
{
    int64_t ms = MIN(left_ms(k), KUBE_ATTEMPT_MS);
    int code;

    kube_reply_deinit(r);
    if (ms <= 0)
        return err_set(e, KUBE_E_UNREACHABLE, "%s %s: the time of this run is used up", q->method,
                       q->what);
    code = kube_read_token(k, e);
    if (code)
        return code;
    code = kube_attempt(k, q, ms, r);
    if (code)
        return code;
    code = kube_judge(k, q, r, e);
    r->unclear = code && !q->repeatable && is_unclear(r);
    return code;
}

static void copy_text(struct err *e, const struct err *from)
{
    if (e)
        *e = *from;
}

int kube_call(struct kube *k, const struct kube_request *q, struct kube_reply *r, struct err *e)
{
    bool renewed = false;
    int code;

    for (int i = 0;; i++) {
        struct err now = ERR_INIT;

        code = try_once(k, q, r, &now);
        if (code == KUBE_E_AUTH && r->status == 401 && k->access.token_file && !renewed) {
            renewed = true;
            now = (struct err)ERR_INIT;
            code = try_once(k, q, r, &now);
        }
        /* What the last attempt met is what is told. */
        copy_text(e, &now);
        if (!code || r->unclear || code == -ENOMEM || !kube_is_transient(k, r))
            return code;
        if (i + 1 == KUBE_ATTEMPTS || kube_pause(k, i, r->retry_after_ms))
            return code;
    }
}

static bool is_name(const char *s)
{
    size_t n = strlen(s);

    if (n == 0 || n > 253 || strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789.-") != n)
        return false;
    return !strchr(".-", s[0]) && !strchr(".-", s[n - 1]) && !strstr(s, "..");
}

int kube_check_name(const char *kind, const char *name, struct err *e)
{
    if (name && is_name(name))
        return 0;
    return err_set(e, KUBE_E_CONFIG,
                   "%s \"%.100s\": no name that Kubernetes knows (small letters, digits, '-', '.')",
                   kind, name ? name : "");
}

void kube_path(const struct kube *k, const char *group, struct buf *dst)
{
    buf_reset(dst);
    buf_appendf(dst, "%s/namespaces/%s/", group, k->ns);
}
