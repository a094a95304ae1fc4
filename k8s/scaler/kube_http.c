/* SPDX-License-Identifier: Apache-2.0 */
/* One attempt of one request with libcurl.
 *
 * The certificate is always verified. Redirects are not followed: the token is for one server. Answers are bounded while
 * they arrive. The proxy is the kubeconfig's; in a cluster, none unless asked for. */

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "k8s/scaler/kube_priv.h"

#include <errno.h>
#include <strings.h>

struct transfer {
    struct kube *k;
    struct kube_reply *r;
};

void kube_reply_deinit(struct kube_reply *r)
{
    buf_deinit(&r->body);
    *r = (struct kube_reply){0};
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;

    (void)size; /* always 1 */
    if (t->r->body.len + n > LIMIT_KUBE_ANSWER) {
        t->r->too_big = true;
        return 0;
    }
    buf_append(&t->r->body, p, n);
    t->r->no_memory = t->r->body.failed;
    return t->r->no_memory ? 0 : n;
}

static bool header_value(struct slice line, const char *name, struct slice *ret_value)
{
    size_t n = strlen(name);

    if (line.len <= n || strncasecmp(line.p, name, n) != 0 || line.p[n] != ':')
        return false;
    for (n++; n < line.len && (line.p[n] == ' ' || line.p[n] == '\t');)
        n++;
    while (line.len > n && strchr(" \t\r\n", line.p[line.len - 1]))
        line.len--;
    *ret_value = (struct slice){line.p + n, line.len - n};
    return true;
}

static size_t on_header(const char *p, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;
    struct slice value;
    char text[64];
    time_t when;

    (void)size;
    if (!header_value((struct slice){p, n}, "Date", &value) || value.len >= sizeof(text))
        return n;
    memcpy(text, value.p, value.len);
    text[value.len] = '\0';
    when = curl_getdate(text, NULL);
    if (when > 0)
        t->r->date_us = (int64_t)when * KUBE_US_PER_S;
    return n;
}

static struct curl_slist *slist_free(struct curl_slist *l)
{
    curl_slist_free_all(l);
    return NULL;
}

DEFINE_CLEANUP(struct curl_slist, slist_free)

static int add_header(struct curl_slist **l, const char *name, const char *value)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct curl_slist *next;

    buf_appendf(&b, "%s: %s", name, value);
    next = buf_ok(&b) ? NULL : curl_slist_append(*l, b.data);
    if (!next)
        return -ENOMEM;
    *l = next;
    return 0;
}

/* The host with its port as the kubeconfig has it: what the server is called when tls-server-name names another. */
static const char *authority(const struct kube *k)
{
    return strstr(k->access.server, "://") + 3;
}

static int make_headers(const struct kube *k, const struct kube_request *q,
                        struct curl_slist **ret_l)
{
    CLEANUP(slist_free) struct curl_slist *l = NULL;
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    int code = add_header(&l, "Accept", "application/json");

    if (!code && q->content_type)
        code = add_header(&l, "Content-Type", q->content_type);
    if (!code)
        code = add_header(&l, "Expect", "");
    if (!code && *k->token && strncmp(k->access.server, "https:", 6) == 0) {
        buf_appendf(&b, "Bearer %s", k->token);
        code = buf_ok(&b) ? -ENOMEM : add_header(&l, "Authorization", b.data);
    }
    if (!code && k->access.tls_name) {
        buf_reset(&b);
        buf_append(&b, authority(k), strcspn(authority(k), "/"));
        code = buf_ok(&b) ? -ENOMEM : add_header(&l, "Host", b.data);
    }
    if (code)
        return code;
    *ret_l = STEAL(l);
    return 0;
}

/* libcurl verifies the name in the URL: with tls-server-name the URL has that name, and the connection goes to the
 * server all the same ("name:port:host:port"). */
static int make_url(const struct kube *k, const char *path, struct buf *url,
                    struct curl_slist **ret_to)
{
    CLEANUP(buf_deinit) struct buf to = BUF_INIT;
    const char *rest = authority(k);
    size_t n = strcspn(rest, "/"), host = n;

    if (!k->access.tls_name) {
        buf_appendf(url, "%s%s", k->access.server, path);
        return buf_ok(url);
    }
    while (host && rest[host - 1] != ':' && rest[host - 1] != ']')
        host--;
    if (!host || rest[host - 1] == ']')
        host = n; /* without a port */
    else
        host--;
    buf_appendf(url, "https://%s%.*s%s%s", k->access.tls_name, (int)(n - host), rest + host,
                rest + n, path);
    buf_appendf(&to, "::%.*s:%.*s", (int)host, rest, (int)(n > host ? n - host - 1 : 0),
                rest + host + (n > host));
    if (buf_ok(url) || buf_ok(&to))
        return -ENOMEM;
    *ret_to = curl_slist_append(NULL, to.data);
    return *ret_to ? 0 : -ENOMEM;
}

static struct curl_blob blob(const char *text)
{
    return (struct curl_blob){(void *)(uintptr_t)text, strlen(text), CURL_BLOB_COPY};
}

static void set_tls(CURL *c, const struct kube_access *a)
{
    struct curl_blob b;

    if (a->ca_pem) {
        b = blob(a->ca_pem);
        curl_easy_setopt(c, CURLOPT_CAINFO_BLOB, &b);
        curl_easy_setopt(c, CURLOPT_CAPATH, NULL);
    }
    if (a->cert_pem) {
        b = blob(a->cert_pem);
        curl_easy_setopt(c, CURLOPT_SSLCERT_BLOB, &b);
        b = blob(a->key_pem);
        curl_easy_setopt(c, CURLOPT_SSLKEY_BLOB, &b);
    }
    curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 2L);
}

static void set_proxy(const struct kube *k)
{
    if (k->access.proxy)
        curl_easy_setopt(k->curl, CURLOPT_PROXY, k->access.proxy);
    else if (k->access.in_cluster && !k->use_proxy)
        curl_easy_setopt(k->curl, CURLOPT_NOPROXY, "*");
}

static void set_common(struct transfer *t, const char *url, const struct curl_slist *headers,
                       struct curl_slist *to)
{
    CURL *c = t->k->curl;

    curl_easy_reset(c); /* keeps the connections */
    curl_easy_setopt(c, CURLOPT_URL, url);
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#endif
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    if (to)
        curl_easy_setopt(c, CURLOPT_CONNECT_TO, to);
    curl_easy_setopt(c, CURLOPT_USERAGENT, KUBE_FIELD_MANAGER "/" SCATTER_VERSION);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 1L);
    curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, t->k->curl_error);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
    set_tls(c, &t->k->access);
    set_proxy(t->k);
}

static void set_method(CURL *c, const struct kube_request *q, int64_t left_ms)
{
    /* On a connection that was kept libcurl sends again by itself when the server closes it without an answer. A write
     * must not be sent again without looking, so it gets a connection of its own. */
    if (!q->repeatable)
        curl_easy_setopt(c, CURLOPT_FRESH_CONNECT, 1L);
    if (q->content_type) {
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, q->body.p);
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->body.len);
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, q->method);
    } else {
        curl_easy_setopt(c, CURLOPT_HTTPGET, 1L);
    }
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)MAX(left_ms, 1));
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)MAX(MIN(left_ms, KUBE_CONNECT_MS), 1));
}

static void note_times(struct kube *k, struct kube_reply *r)
{
    curl_off_t seconds = 0;

    if (curl_easy_getinfo(k->curl, CURLINFO_RETRY_AFTER, &seconds) == CURLE_OK)
        r->retry_after_ms = MIN(MAX(seconds, 0), 86400) * 1000;
    if (r->date_us) {
        k->date_us = r->date_us;
        k->date_at_ns = clock_mono_ns();
    }
}

int kube_attempt(struct kube *k, const struct kube_request *q, int64_t left_ms,
                 struct kube_reply *r)
{
    CLEANUP(slist_free) struct curl_slist *headers = NULL, *to = NULL;
    CLEANUP(buf_deinit) struct buf url = BUF_INIT;
    struct transfer t = {k, r};
    int code = make_url(k, q->path, &url, &to);

    if (!code)
        code = make_headers(k, q, &headers);
    if (code)
        return code;
    k->curl_error[0] = '\0';
    set_common(&t, url.data, headers, to);
    set_method(k->curl, q, left_ms);
    r->curl = curl_easy_perform(k->curl);
    (void)curl_easy_getinfo(k->curl, CURLINFO_RESPONSE_CODE, &r->status);
    (void)curl_easy_getinfo(k->curl, CURLINFO_OS_ERRNO, &r->os_errno);
    note_times(k, r);
    curl_easy_setopt(k->curl, CURLOPT_HTTPHEADER, NULL); /* the lists die here */
    curl_easy_setopt(k->curl, CURLOPT_CONNECT_TO, NULL);
    return r->no_memory ? -ENOMEM : 0;
}
