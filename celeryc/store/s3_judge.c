/* SPDX-License-Identifier: Apache-2.0 */
/* What an answer of an S3 server means, in a code and in one line for people that names the fix.
 *
 * The XML of an error is not parsed as XML: the texts of <Code> and <Message> are cut out, bounded and cleaned of
 * control bytes, whatever else the body holds. */

#include "celeryc/base/limits.h"
#include "celeryc/store/aws_http.h"
#include "celeryc/store/s3_priv.h"

#include <errno.h>

#define WORD_SIZE 240

static bool curl_is_transient(CURLcode c)
{
    switch (c) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PARTIAL_FILE:
    case CURLE_UPLOAD_FAILED:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_FAIL_REWIND:
        return true;
    default:
        return false;
    }
}

static int judge_curl(const struct s3 *s, const struct s3_request *q, const struct s3_answer *a,
                      struct err *e)
{
    const char *text = s->curl_error[0] ? s->curl_error : curl_easy_strerror(a->curl);

    if (a->too_big || a->curl == CURLE_FILESIZE_EXCEEDED)
        return err_set(e, -E2BIG, "%s in s3://%s: larger than %u MiB", q->name, s->bucket,
                       LIMIT_OBJECT_BYTES >> 20);
    if (a->curl == CURLE_OUT_OF_MEMORY)
        return -ENOMEM;
    if (a->curl == CURLE_COULDNT_CONNECT || a->curl == CURLE_COULDNT_RESOLVE_HOST)
        return err_set(e, STORE_E_TRANSIENT,
                       "cannot reach the S3 endpoint %s: %s; check AWS_ENDPOINT_URL_S3 or "
                       "AWS_ENDPOINT_URL",
                       s->endpoint,
                       a->curl == CURLE_COULDNT_CONNECT && a->os_errno ? err_errno((int)a->os_errno)
                                                                       : text);
    if (a->curl == CURLE_PEER_FAILED_VERIFICATION || a->curl == CURLE_SSL_CACERT_BADFILE)
        return err_set(e, -EIO, "the S3 endpoint %s: %s; check AWS_CA_BUNDLE", s->endpoint, text);
    return err_set(e, curl_is_transient(a->curl) ? STORE_E_TRANSIENT : -EIO, "S3 endpoint %s: %s",
                   s->endpoint, text);
}

static bool is_one_of(const char *word, const char *const *list)
{
    for (; *list; list++)
        if (str_eq(word, *list))
            return true;
    return false;
}

static bool status_is_transient(long status, const char *word)
{
    static const char *const words[] = {
        "SlowDown",         "RequestTimeout",  "InternalError",       "ServiceUnavailable",
        "OperationAborted", "TooManyRequests", "ThrottlingException", NULL};

    return aws_status_is_transient(status) || is_one_of(word, words);
}

static bool is_expired(const char *word)
{
    static const char *const tokens[] = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired",
                                         NULL};

    return is_one_of(word, tokens);
}

/* What to do about a refusal, by S3's word for it; "" when there is nothing to say. */
static void denied_fix(const struct s3 *s, const char *word, char *dst, size_t size)
{
    static const char *const keys[] = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthFailure",
                                       NULL};
    const char *source = s->creds.source ? s->creds.source : "environment";
    bool ours = str_eq(source, "environment");

    dst[0] = '\0';
    if (is_one_of(word, keys))
        (void)snprintf(dst, size,
                       ours ? "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                            : "check the credentials of the %s",
                       source);
    else if (is_expired(word))
        (void)snprintf(dst, size,
                       ours ? "check AWS_SESSION_TOKEN"
                            : "the %s gives credentials that have expired",
                       source);
    else if (str_eq(word, "RequestTimeTooSkewed"))
        (void)snprintf(dst, size, "set this machine's clock");
    else if (str_eq(word, "AccessDenied") || str_eq(word, "AllAccessDisabled") || !*word)
        (void)snprintf(dst, size,
                       ours ? "give these keys the right to read and write there"
                            : "give the credentials of the %s the right to read and write there",
                       source);
}

static int wrong_region(const struct s3 *s, struct s3_answer *a, const char *message, struct err *e)
{
    if (!a->region[0])
        aws_element(buf_slice(&a->error_body), "Region", a->region, sizeof(a->region));
    if (!aws_region_is_valid(a->region) || str_eq(a->region, s->region))
        a->region[0] = '\0';
    return err_set(e, -EINVAL, "bucket \"%s\" is not in region %s (%s): set AWS_REGION%s%s",
                   s->bucket, s->region, *message ? message : "redirected", a->region[0] ? "=" : "",
                   a->region);
}

int s3_judge(const struct s3 *s, const struct s3_request *q, struct s3_answer *a, struct err *e)
{
    char word[WORD_SIZE], message[WORD_SIZE], fix[WORD_SIZE];

    if (a->curl != CURLE_OK)
        return judge_curl(s, q, a, e);
    if (a->status >= 200 && a->status < 300)
        return 0;
    aws_element(buf_slice(&a->error_body), "Code", word, sizeof(word));
    aws_element(buf_slice(&a->error_body), "Message", message, sizeof(message));
    denied_fix(s, word, fix, sizeof(fix));
    a->expired = is_expired(word);
    if (status_is_transient(a->status, word))
        return err_set(e, STORE_E_TRANSIENT, "S3 endpoint %s: HTTP %ld %s %s", s->endpoint,
                       a->status, word, message);
    if (str_eq(word, "NoSuchBucket"))
        return err_set(e, -EINVAL,
                       "bucket \"%s\" does not exist at %s: create it, or correct the store URL",
                       s->bucket, s->endpoint);
    if (a->status == 404)
        return err_set(e, STORE_E_NOT_FOUND, "%s is not in s3://%s%s%s", q->name, s->bucket,
                       *s->prefix ? "/" : "", s->prefix);
    if (str_eq(word, "PermanentRedirect") || str_eq(word, "AuthorizationHeaderMalformed") ||
        (a->status >= 300 && a->status < 400))
        return wrong_region(s, a, message, e);
    if (a->status == 401 || a->status == 403 || (*fix && *word))
        return err_set(e, STORE_E_DENIED,
                       "S3 refused %s of %s in bucket \"%s\" (HTTP %ld %s%s%s): %s", q->method,
                       q->name, s->bucket, a->status, word, *message ? ": " : "", message,
                       *fix ? fix : "see the server's documentation");
    return err_set(e, -EIO, "S3 endpoint %s: %s of %s: HTTP %ld %s %s", s->endpoint, q->method,
                   q->name, a->status, word, message);
}
