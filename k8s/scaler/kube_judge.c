/* SPDX-License-Identifier: Apache-2.0 */
/* What a reply means, in a code and in one line for people that names the fix.
 *
 * The server's own text is shown, cut and without control bytes; should it hold our token, nothing of it is. */

#include "celeryc/base/limits.h"
#include "k8s/scaler/kube_priv.h"

#include <errno.h>

/* A handshake that fails inside OpenSSL, and not because the other side went away or sent an alert: a certificate signed
 * by another CA of the same name (every kubeadm cluster has one called kubernetes), or a port without TLS. */
static bool is_bad_handshake(const struct kube *k, const struct kube_reply *r)
{
    return r->curl == CURLE_SSL_CONNECT_ERROR && strstr(k->curl_error, "error:") &&
           !strstr(k->curl_error, "alert") && !strstr(k->curl_error, "eof");
}

bool kube_is_transient(const struct kube *k, const struct kube_reply *r)
{
    if (is_bad_handshake(k, r))
        return false;
    switch (r->curl) {
    case CURLE_OK:
        return r->status == 429 || r->status == 408 || r->status >= 500;
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
        return true;
    default:
        return false;
    }
}

static int judge_certificate(const struct kube *k, const struct kube_request *q,
                             const struct kube_reply *r, const char *text, struct err *e)
{
    if (r->curl == CURLE_PEER_FAILED_VERIFICATION || r->curl == CURLE_SSL_CONNECT_ERROR)
        return err_set(e, KUBE_E_CONFIG,
                       "%s %s: the certificate of %s is not accepted: %s; check %s", q->method,
                       q->what, k->access.server, text,
                       k->access.in_cluster ? "ca.crt of the service account"
                                            : "certificate-authority of the kubeconfig");
    return err_set(e, KUBE_E_CONFIG, "%s %s: %s; check %s", q->method, q->what, text,
                   r->curl == CURLE_SSL_CACERT_BADFILE ? "certificate-authority"
                                                       : "client-certificate and client-key");
}

static int judge_curl(const struct kube *k, const struct kube_request *q,
                      const struct kube_reply *r, struct err *e)
{
    const char *text = k->curl_error[0] ? k->curl_error : curl_easy_strerror(r->curl);

    if (r->too_big)
        return err_set(e, KUBE_E_UNREACHABLE, "%s %s: the answer is larger than %u MiB", q->method,
                       q->what, LIMIT_KUBE_ANSWER >> 20);
    if (is_bad_handshake(k, r))
        return judge_certificate(k, q, r, text, e);
    switch (r->curl) {
    case CURLE_OUT_OF_MEMORY:
        return -ENOMEM;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
        return judge_certificate(k, q, r, text, e);
    case CURLE_COULDNT_CONNECT:
        if (r->os_errno)
            text = err_errno((int)r->os_errno);
        return err_set(e, KUBE_E_UNREACHABLE, "%s %s: cannot reach the API server %s: %s",
                       q->method, q->what, k->access.server, text);
    case CURLE_OPERATION_TIMEDOUT:
        return err_set(e, KUBE_E_UNREACHABLE, "%s %s: no answer of the API server %s in time: %s",
                       q->method, q->what, k->access.server, text);
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return err_set(e, KUBE_E_CONFIG, "%s %s: %s: %s", q->method, q->what, k->access.server,
                       text);
    default:
        return err_set(e, KUBE_E_UNREACHABLE, "%s %s: API server %s: %s", q->method, q->what,
                       k->access.server, text);
    }
}

static bool is_refusal(const char *message)
{
    return strstr(message, "denied the request") || strstr(message, "denied request") ||
           strstr(message, "exceeded quota");
}

static int judge_denied(const struct kube *k, const struct kube_request *q, long status,
                        const char *message, struct err *e)
{
    if (is_refusal(message))
        return err_set(e, KUBE_E_DENIED, "%s %s: %ld: %s", q->method, q->what, status, message);
    if (status == 401)
        return err_set(e, KUBE_E_AUTH,
                       "%s %s: 401: %s; the API server does not accept the %s: it may have expired",
                       q->method, q->what, message,
                       *k->token ? "token" : "client certificate, and there is no token");
    return err_set(e, KUBE_E_AUTH,
                   "%s %s: 403: %s; give the scaler's Role this right (scatter-scale --check lists "
                   "them all)",
                   q->method, q->what, message);
}

/* A named object that is missing has its name in the Status; a path that the server does not know has none. */
static int judge_missing(const struct kube_request *q, const struct answer_status *s,
                         const char *message, struct err *e)
{
    if (*s->name)
        return err_set(e, KUBE_E_NOT_FOUND, "%s %s: 404: %s", q->method, q->what, message);
    return err_set(e, KUBE_E_CONFIG, "%s %s: 404: %s; the server does not know this kind of object",
                   q->method, q->what, message);
}

static int judge_status(const struct kube *k, const struct kube_request *q,
                        const struct kube_reply *r, struct err *e)
{
    struct answer_status s;
    const char *message = s.message;

    answer_status(buf_slice(&r->body), &s);
    if (*k->token && strstr(message, k->token))
        message = "(the answer repeats the token and is not shown)";
    else if (!*message)
        message = "no text";
    switch (r->status) {
    case 401:
    case 403:
        return judge_denied(k, q, r->status, message, e);
    case 404:
        return judge_missing(q, &s, message, e);
    case 409:
        return err_set(e, KUBE_E_CONFLICT, "%s %s: 409: %s", q->method, q->what, message);
    case 408:
    case 410:
    case 429:
        return err_set(e, KUBE_E_UNREACHABLE, "%s %s: %ld: %s", q->method, q->what, r->status,
                       message);
    default:
        break;
    }
    if (is_refusal(message))
        return err_set(e, KUBE_E_DENIED, "%s %s: %ld: %s", q->method, q->what, r->status, message);
    if (r->status >= 300 && r->status < 400)
        return err_set(e, KUBE_E_CONFIG,
                       "%s %s: %ld: a redirect, which an API server does not send: is %s a proxy?",
                       q->method, q->what, r->status, k->access.server);
    return err_set(e, r->status >= 500 ? KUBE_E_UNREACHABLE : KUBE_E_CONFIG, "%s %s: %ld: %s",
                   q->method, q->what, r->status, message);
}

int kube_judge(const struct kube *k, const struct kube_request *q, const struct kube_reply *r,
               struct err *e)
{
    struct json_val v;
    int code;

    if (r->curl != CURLE_OK)
        return judge_curl(k, q, r, e);
    if (r->status < 200 || r->status >= 300)
        return judge_status(k, q, r, e);
    code = answer_scan(buf_slice(&r->body), NULL, &v, NULL);
    return code && code != -ENOMEM ? kube_bad_answer(q, code, e) : code;
}

int kube_bad_answer(const struct kube_request *q, int code, struct err *e)
{
    if (code == -ENOMEM)
        return code;
    err_write_prefix(e, "%s %s: not the answer of an API server (is there a proxy between?)",
                     q->method, q->what);
    return KUBE_E_UNREACHABLE;
}
