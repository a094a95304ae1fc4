/* SPDX-License-Identifier: Apache-2.0 */
/* The endpoint that ECS and EKS pod identity put beside a container. Over plain HTTP it is asked only on this machine or
 * at the two addresses that AWS documents: the authorization token goes with the request.
 * https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html */

#include "celeryc/base/limits.h"
#include "celeryc/base/url.h"
#include "celeryc/store/creds_priv.h"

#include <arpa/inet.h>
#include <errno.h>

#define ECS        "http://169.254.170.2"
#define TOTAL_MS   5000
#define CONNECT_MS 2000

static bool is_near(const char *host)
{
    static const char *const names[] = {"localhost", "::1", "169.254.170.2", "169.254.170.23",
                                        "fd00:ec2::23"};
    struct in_addr a;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (str_eq(host, names[i]))
            return true;
    return inet_pton(AF_INET, host, &a) == 1 && ntohl(a.s_addr) >> 24 == 127;
}

static int check_url(const char *text, struct err *e)
{
    CLEANUP(url_deinit) struct url u = {0};

    for (const char *c = text; *c; c++)
        if ((unsigned char)*c <= 0x20 || strchr("@\\#\x7f", *c))
            return err_set(e, -EINVAL, "AWS_CONTAINER_CREDENTIALS_FULL_URI is no plain URL");
    if (url_parse(text, &u, e))
        return -EINVAL;
    if (str_eq(u.scheme, "https") || (str_eq(u.scheme, "http") && is_near(u.host)))
        return 0;
    return err_set(e, -EINVAL,
                   "AWS_CONTAINER_CREDENTIALS_FULL_URI: %s://%s is not allowed: https, or http on "
                   "a loopback address, 169.254.170.2, 169.254.170.23 or [fd00:ec2::23]",
                   u.scheme, u.host);
}

static int make_url(struct buf *url, struct err *e)
{
    const char *relative = aws_env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    const char *full = aws_env("AWS_CONTAINER_CREDENTIALS_FULL_URI");

    if (!relative && !full)
        return err_set(e, CREDS_E_ABSENT, "AWS_CONTAINER_CREDENTIALS_FULL_URI is not set");
    if (relative && *relative != '/')
        return err_set(e, -EINVAL,
                       "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI does not begin with a slash");
    if (relative)
        buf_appendf(url, ECS "%s", relative);
    else
        buf_append_str(url, full);
    return buf_ok(url) ? -ENOMEM : check_url(url->data, e);
}

/* The header, empty when no token is set. The file is read each time: it is replaced before its token expires. */
static int make_header(struct buf *b, struct err *e)
{
    const char *file = aws_env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    const char *token = aws_env("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    int code = 0;

    if (!file && !token)
        return 0;
    buf_append_str(b, "Authorization: ");
    if (file)
        code = aws_read_file(file, LIMIT_AWS_ANSWER, b);
    else
        buf_append_str(b, token);
    if (code)
        return err_set(e, -EINVAL, "cannot read AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE %s: %s",
                       file, err_errno(code));
    if (buf_ok(b))
        return -ENOMEM;
    for (size_t i = 0; i < b->len; i++)
        if ((unsigned char)b->data[i] < 0x20 || b->data[i] == 0x7f)
            return err_set(e, -EINVAL,
                           "the container's authorization token holds line ends or control bytes");
    return 0;
}

int creds_container(const struct aws_settings *s, int64_t left_ms, struct creds *ret_c,
                    struct err *e)
{
    CLEANUP(aws_reply_deinit) struct aws_reply r = {.body = BUF_INIT};
    CLEANUP(buf_deinit) struct buf url = BUF_INIT;
    CLEANUP(buf_deinit) struct buf header = BUF_INIT;
    struct aws_http q = {.method = "GET",
                         .direct = true,
                         .ca_bundle = aws_settings_ca_bundle(s),
                         .connect_ms = MIN(left_ms, CONNECT_MS),
                         .total_ms = MIN(left_ms, TOTAL_MS)};
    int code = make_url(&url, e);

    if (!code)
        code = make_header(&header, e);
    if (code)
        return code;
    q.url = url.data;
    q.headers[0] = header.len ? header.data : NULL;
    code = aws_http(&q, &r, e);
    if (code)
        return code;
    if (r.status != 200)
        return err_set(
            e, aws_status_is_transient(r.status) ? STORE_E_TRANSIENT : STORE_E_DENIED,
            "%.*s answered HTTP %ld: check the pod identity association or the task role, "
            "and AWS_CONTAINER_AUTHORIZATION_TOKEN(_FILE)",
            aws_origin_len(url.data), url.data, r.status);
    code = creds_parse_json(buf_slice(&r.body), ret_c, e);
    return code == -EINVAL ? err_prefix(e, code, "%.*s", aws_origin_len(url.data), url.data) : code;
}
