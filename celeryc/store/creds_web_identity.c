/* SPDX-License-Identifier: Apache-2.0 */
/* A role taken with a token that somebody else has signed: STS AssumeRoleWithWebIdentity, as Kubernetes service accounts
 * use it (IRSA). The token's file is read each time: it is replaced before the token expires. The request needs no
 * signature. https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html */

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/store/creds_priv.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/crypto.h>

#define TOTAL_MS   10000
#define CONNECT_MS 3000

static void add_field(struct buf *b, const char *name, struct slice value)
{
    static const char hex[] = "0123456789ABCDEF";

    buf_appendf(b, "&%s=", name);
    for (size_t i = 0; i < value.len; i++) {
        unsigned char c = (unsigned char)value.p[i];

        if (isalnum(c) || (c && strchr("-._~", c)))
            buf_append_char(b, (char)c);
        else
            buf_append(b, (char[]){'%', hex[c >> 4], hex[c & 15]}, 3);
    }
}

static void clear(struct buf *b)
{
    if (b->data)
        OPENSSL_cleanse(b->data, b->cap);
    buf_deinit(b);
}

DEFINE_CLEANUP_VALUE(struct buf, clear)

static int make_body(const char *role, const char *file, const char *session, struct buf *body,
                     struct err *e)
{
    CLEANUP(clear) struct buf token = BUF_INIT;
    char name[40];
    int code = aws_read_file(file, LIMIT_AWS_ANSWER, &token);

    if (code)
        return err_set(e, -EINVAL, "cannot read the token file %s: %s", file, err_errno(code));
    if (!token.len)
        return err_set(e, -EINVAL, "the token file %s is empty", file);
    (void)snprintf(name, sizeof(name), "scatter-%lld", (long long)(clock_wall_us() / 1000000));
    buf_append_str(body, "Action=AssumeRoleWithWebIdentity&Version=2011-06-15");
    add_field(body, "RoleArn", slice_str(role));
    add_field(body, "RoleSessionName", slice_str(session ? session : name));
    add_field(body, "WebIdentityToken", buf_slice(&token));
    return buf_ok(body);
}

static int make_url(const struct aws_settings *s, struct buf *url, struct err *e)
{
    const char *given = aws_settings_endpoint(s, "sts"), *region = NULL;
    int code = aws_settings_region(s, &region, e);

    if (code)
        return code;
    if (given && strpbrk(given, "@?# \t\r\n"))
        return err_set(
            e, -EINVAL,
            "AWS_ENDPOINT_URL_STS: expected https://host (without user, query or spaces)");
    if (given)
        buf_append_str(url, given);
    else
        aws_settings_amazon(s, "sts", region, url);
    while (url->len && url->data[url->len - 1] == '/')
        url->data[--url->len] = '\0';
    buf_append_char(url, '/');
    return buf_ok(url);
}

/* What STS answers instead of credentials, in its words; they hold no secret. */
static int refused(const struct aws_reply *r, const char *role, const char *file, struct err *e)
{
    static const char *const passing[] = {"IDPCommunicationError", "Throttling",
                                          "ThrottlingException", "RequestLimitExceeded"};
    char word[80], message[300];
    const char *fix = "see the role's trust policy";
    int code = STORE_E_DENIED;

    aws_element(buf_slice(&r->body), "Code", word, sizeof(word));
    aws_element(buf_slice(&r->body), "Message", message, sizeof(message));
    if (aws_status_is_transient(r->status))
        code = STORE_E_TRANSIENT;
    for (size_t i = 0; i < ARRAY_SIZE(passing); i++)
        if (str_eq(word, passing[i]))
            code = STORE_E_TRANSIENT;
    if (str_eq(word, "AccessDenied"))
        fix = "the role's trust policy must allow sts:AssumeRoleWithWebIdentity to this token's "
              "issuer, subject and audience";
    else if (str_eq(word, "ExpiredTokenException") || str_eq(word, "InvalidIdentityToken"))
        fix = "check who writes the token file, and that the issuer is an identity provider of the "
              "account";
    return err_set(e, code, "STS refused role %s with the token of %s (HTTP %ld %s%s%s): %s", role,
                   file, r->status, word, *message ? ": " : "", message,
                   code == STORE_E_TRANSIENT ? "try again later" : fix);
}

int creds_assume(const struct aws_settings *s, const char *role_arn, const char *token_file,
                 const char *session, int64_t left_ms, struct creds *ret_c, struct err *e)
{
    CLEANUP(aws_reply_deinit) struct aws_reply r = {.body = BUF_INIT};
    CLEANUP(clear) struct buf body = BUF_INIT;
    CLEANUP(buf_deinit) struct buf url = BUF_INIT;
    struct aws_http q = {.method = "POST",
                         .headers = {"Content-Type: application/x-www-form-urlencoded"},
                         .ca_bundle = aws_settings_ca_bundle(s),
                         .connect_ms = MIN(left_ms, CONNECT_MS),
                         .total_ms = MIN(left_ms, TOTAL_MS)};
    int code = make_url(s, &url, e);

    if (!code)
        code = make_body(role_arn, token_file, session, &body, e);
    if (code)
        return code;
    q.url = url.data;
    q.body = buf_slice(&body);
    code = aws_http(&q, &r, e);
    if (code)
        return err_prefix(e, code, "STS");
    if (r.status != 200)
        return refused(&r, role_arn, token_file, e);
    code = creds_parse_sts(buf_slice(&r.body), ret_c, e);
    return code == -EINVAL ? err_prefix(e, code, "STS at %s", url.data) : code;
}

int creds_web_identity(const struct aws_settings *s, int64_t left_ms, struct creds *ret_c,
                       struct err *e)
{
    const char *file = aws_env("AWS_WEB_IDENTITY_TOKEN_FILE"), *role = aws_env("AWS_ROLE_ARN");

    if (!file)
        return err_set(e, CREDS_E_ABSENT, "AWS_WEB_IDENTITY_TOKEN_FILE is not set");
    if (!role)
        return err_set(e, -EINVAL, "AWS_WEB_IDENTITY_TOKEN_FILE is set, so AWS_ROLE_ARN is needed");
    return creds_assume(s, role, file, aws_env("AWS_ROLE_SESSION_NAME"), left_ms, ret_c, e);
}
