/* SPDX-License-Identifier: Apache-2.0 */
/* Small exchanges: their answers hold secrets, so they are bounded, never shown, and cleared behind their use.
 * Redirects are not followed: what gives credentials is asked at its own address alone. */

#include "celeryc/store/aws_http.h"

#include "celeryc/base/limits.h"
#include "celeryc/store/curl_list.h"
#include "celeryc/store/store.h"

#include <curl/curl.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <pthread.h>

struct exchange {
    struct buf *body;
    bool too_big;
};

/* curl_global_init must run once in a process, before threads may race into it; libcurl keeps no other state of ours. */
static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void init_curl(void)
{
    (void)curl_global_init(CURL_GLOBAL_DEFAULT);
}

void aws_http_init(void)
{
    (void)pthread_once(&curl_once, init_curl);
}

static CURL *handle_free(CURL *c)
{
    curl_easy_cleanup(c);
    return NULL;
}

DEFINE_CLEANUP(CURL, handle_free)

void aws_reply_deinit(struct aws_reply *r)
{
    if (r->body.data)
        OPENSSL_cleanse(r->body.data, r->body.cap);
    buf_deinit(&r->body);
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct exchange *x = arg;

    (void)size; /* always 1 */
    if (x->body->len + n > LIMIT_AWS_ANSWER) {
        x->too_big = true;
        return 0;
    }
    buf_append(x->body, p, n);
    return x->body->failed ? 0 : n;
}

static int make_list(const struct aws_http *q, struct curl_slist **ret_l)
{
    CLEANUP(curl_list_free) struct curl_slist *l = NULL;
    int code = 0;

    for (size_t i = 0; i < AWS_HTTP_HEADERS && q->headers[i] && !code; i++)
        code = curl_list_add(&l, q->headers[i]);
    if (code)
        return code;
    *ret_l = STEAL(l);
    return 0;
}

static void set_options(CURL *c, const struct aws_http *q, const struct curl_slist *l,
                        struct exchange *x, char *text)
{
    curl_easy_setopt(c, CURLOPT_URL, q->url);
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#endif
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "scatter");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, l);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, text);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)MAX(q->connect_ms, 1));
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)MAX(q->total_ms, 1));
    if (q->body.p) {
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)q->body.len);
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, q->body.p);
    }
    if (!str_eq(q->method, "GET"))
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, q->method);
    if (q->direct)
        curl_easy_setopt(c, CURLOPT_PROXY, "");
    if (q->ca_bundle)
        curl_easy_setopt(c, CURLOPT_CAINFO, q->ca_bundle);
}

static struct aws_reply take(struct aws_reply *r)
{
    struct aws_reply taken = *r;

    *r = (struct aws_reply){.body = BUF_INIT};
    return taken;
}

int aws_origin_len(const char *url)
{
    const char *host = strstr(url, "://");

    return (int)(host ? (size_t)(host - url) + 3 + strcspn(host + 3, "/?") : strlen(url));
}

/* An answer that is none, in a code. The path is left out: that of a container endpoint is as good as a key. */
static int failed(const struct aws_http *q, CURLcode done, const char *text, struct err *e)
{
    int n = aws_origin_len(q->url);

    if (!*text)
        text = curl_easy_strerror(done);
    if (done == CURLE_PEER_FAILED_VERIFICATION || done == CURLE_SSL_CACERT_BADFILE)
        return err_set(e, -EINVAL, "%.*s: %s; check AWS_CA_BUNDLE", n, q->url, text);
    if (done == CURLE_URL_MALFORMAT || done == CURLE_UNSUPPORTED_PROTOCOL)
        return err_set(e, -EINVAL, "\"%.*s\" is no http:// or https:// URL", n, q->url);
    return err_set(e, STORE_E_TRANSIENT, "%.*s: %s", n, q->url, text);
}

int aws_http(const struct aws_http *q, struct aws_reply *ret_r, struct err *e)
{
    CLEANUP(aws_reply_deinit) struct aws_reply r = {.body = BUF_INIT};
    CLEANUP(curl_list_free) struct curl_slist *l = NULL;
    CLEANUP(handle_free) CURL *c = NULL;
    struct exchange x = {.body = &r.body};
    char text[CURL_ERROR_SIZE] = "";
    CURLcode done;
    int code = make_list(q, &l);

    aws_http_init();
    c = code ? NULL : curl_easy_init();
    if (!c)
        return -ENOMEM;
    set_options(c, q, l, &x, text);
    done = curl_easy_perform(c);
    if (r.body.failed || done == CURLE_OUT_OF_MEMORY)
        return -ENOMEM;
    if (x.too_big)
        return err_set(e, -E2BIG, "%.*s: its answer is larger than %u KiB", aws_origin_len(q->url),
                       q->url, LIMIT_AWS_ANSWER >> 10);
    if (done != CURLE_OK)
        return failed(q, done, text, e);
    (void)curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &r.status);
    *ret_r = take(&r);
    return 0;
}

bool aws_status_is_transient(long status)
{
    return status >= 500 || status == 429 || status == 408 || status == 425;
}

void aws_element(struct slice xml, const char *tag, char *dst, size_t size)
{
    char open[32], close[32];
    const char *from, *to;
    size_t rest, n = 0;

    dst[0] = '\0';
    (void)snprintf(open, sizeof(open), "<%s>", tag);
    (void)snprintf(close, sizeof(close), "</%s>", tag);
    from = xml.len ? memmem(xml.p, xml.len, open, strlen(open)) : NULL;
    if (!from)
        return;
    from += strlen(open);
    rest = xml.len - (size_t)(from - xml.p);
    to = memmem(from, rest, close, strlen(close));
    if (!to)
        return;
    for (; from < to && n < size - 1; from++)
        dst[n++] = (char)((unsigned char)*from < 0x20 || *from == 0x7f ? ' ' : *from);
    dst[n] = '\0';
}
