/* SPDX-License-Identifier: Apache-2.0 */
/* The instance metadata service of EC2, version 2 only: a PUT gives a session's token, then two GETs the role's name and
 * its credentials. The answer to the PUT dies after as many hops as the instance allows, so that in a container a limit
 * of 1 shows as silence. Version 1 is never asked: a token is what keeps forged requests out.
 * https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html */

#include "celeryc/base/num.h"
#include "celeryc/store/creds_priv.h"

#include <errno.h>
#include <strings.h>

#define ROLES      "/latest/meta-data/iam/security-credentials/"
#define TRY_MS     1000
#define ATTEMPTS   2
#define TOKEN_SIZE 512

struct imds {
    const char *base;
    int64_t try_ms;
    uint32_t attempts;
    char token[TOKEN_SIZE]; /* as a header */
};

static const char *setting(const struct aws_settings *s, const char *variable, const char *key)
{
    const char *v = aws_env(variable);

    return v ? v : aws_settings_get(s, key);
}

static bool is_disabled(void)
{
    const char *v = aws_env("AWS_EC2_METADATA_DISABLED");

    return v && strcasecmp(v, "true") == 0;
}

static int configure(struct imds *m, const struct aws_settings *s, int64_t left_ms, struct err *e)
{
    const char *mode =
        setting(s, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ec2_metadata_service_endpoint_mode");
    const char *seconds = setting(s, "AWS_METADATA_SERVICE_TIMEOUT", "metadata_service_timeout");
    const char *attempts =
        setting(s, "AWS_METADATA_SERVICE_NUM_ATTEMPTS", "metadata_service_num_attempts");
    double t = TRY_MS / 1e3;

    m->base = setting(s, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "ec2_metadata_service_endpoint");
    m->attempts = ATTEMPTS;
    if (!m->base)
        m->base = mode && strcasecmp(mode, "ipv6") == 0 ? "http://[fd00:ec2::254]"
                                                        : "http://169.254.169.254";
    if (seconds && (num_parse_f64(slice_str(seconds), &t) || t <= 0 || t > 60))
        return err_set(e, -EINVAL, "AWS_METADATA_SERVICE_TIMEOUT is no number of seconds up to 60");
    if (attempts &&
        (num_parse_u32(slice_str(attempts), &m->attempts) || m->attempts < 1 || m->attempts > 10))
        return err_set(e, -EINVAL, "AWS_METADATA_SERVICE_NUM_ATTEMPTS is not within 1 and 10");
    m->try_ms = MIN((int64_t)(t * 1e3), left_ms);
    return 0;
}

/* path below the service. Answers of 5xx and silence are asked again. */
static int ask(const struct imds *m, const char *method, const char *path, const char *header,
               struct aws_reply *ret_r, struct err *e)
{
    CLEANUP(buf_deinit) struct buf url = BUF_INIT;
    size_t n = strlen(m->base);

    while (n && m->base[n - 1] == '/')
        n--;
    buf_appendf(&url, "%.*s%s", (int)n, m->base, path);
    if (buf_ok(&url))
        return -ENOMEM;
    struct aws_http q = {.method = method,
                         .url = url.data,
                         .headers = {header},
                         .body = str_eq(method, "PUT") ? SLICE_LIT("") : SLICE_NULL,
                         .direct = true,
                         .connect_ms = m->try_ms,
                         .total_ms = m->try_ms};

    for (uint32_t i = 1;; i++) {
        struct err why = ERR_INIT;
        int code = aws_http(&q, ret_r, &why);

        if ((code == STORE_E_TRANSIENT || (code == 0 && ret_r->status >= 500)) && i < m->attempts) {
            aws_reply_deinit(ret_r);
            continue;
        }
        return code ? err_set(e, code, "%s", err_text(&why, code)) : 0;
    }
}

/* Silence says that there is no such service, or a hop too many on the way to it. */
static int get_token(struct imds *m, struct err *e)
{
    CLEANUP(aws_reply_deinit) struct aws_reply r = {.body = BUF_INIT};
    struct err why = ERR_INIT;
    int code =
        ask(m, "PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 300", &r, &why);

    if (code == -ENOMEM)
        return code;
    if (code)
        return err_set(e, CREDS_E_ABSENT,
                       "%s (on EC2, from a container, the instance's metadata hop limit must be 2)",
                       err_text(&why, code));
    if (r.status != 200)
        return err_set(e, aws_status_is_transient(r.status) ? STORE_E_TRANSIENT : CREDS_E_ABSENT,
                       "%s refused a token (HTTP %ld)", m->base, r.status);
    if (!r.body.len || r.body.len > TOKEN_SIZE - 64 || strlen(r.body.data) != r.body.len ||
        strpbrk(r.body.data, "\r\n"))
        return err_set(e, CREDS_E_ABSENT, "%s gave no token", m->base);
    (void)snprintf(m->token, sizeof(m->token), "X-aws-ec2-metadata-token: %s", r.body.data);
    return 0;
}

static int get(const struct imds *m, const char *path, struct aws_reply *ret_r, struct err *e)
{
    int code = ask(m, "GET", path, m->token, ret_r, e);

    if (code || ret_r->status == 200)
        return code;
    if (ret_r->status == 404)
        return err_set(e, CREDS_E_ABSENT, "the instance has no role: attach an instance profile");
    return err_set(e, aws_status_is_transient(ret_r->status) ? STORE_E_TRANSIENT : STORE_E_DENIED,
                   "%s answered HTTP %ld", m->base, ret_r->status);
}

/* The path of the first role's credentials. */
static int get_role(const struct imds *m, struct buf *path, struct err *e)
{
    CLEANUP(aws_reply_deinit) struct aws_reply r = {.body = BUF_INIT};
    int code = get(m, ROLES, &r, e);
    size_t n;

    if (code)
        return code;
    n = r.body.data ? strcspn(r.body.data, "\r\n") : 0;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)r.body.data[i] <= 0x20 || strchr("/?#%\x7f", r.body.data[i]))
            n = 0;
    if (n == 0 || n > 128)
        return err_set(e, -EINVAL, "%s names no role", m->base);
    buf_appendf(path, ROLES "%.*s", (int)n, r.body.data);
    return buf_ok(path);
}

int creds_imds(const struct aws_settings *s, int64_t left_ms, struct creds *ret_c, struct err *e)
{
    CLEANUP(aws_reply_deinit) struct aws_reply r = {.body = BUF_INIT};
    CLEANUP(buf_deinit) struct buf path = BUF_INIT;
    struct imds m = {0};
    int code;

    if (is_disabled())
        return err_set(e, CREDS_E_ABSENT, "AWS_EC2_METADATA_DISABLED is true");
    code = configure(&m, s, left_ms, e);
    if (!code)
        code = get_token(&m, e);
    if (!code)
        code = get_role(&m, &path, e);
    if (!code)
        code = get(&m, path.data, &r, e);
    if (code)
        return code;
    code = creds_parse_json(buf_slice(&r.body), ret_c, e);
    return code == -EINVAL ? err_prefix(e, code, "%s", m.base) : code;
}
