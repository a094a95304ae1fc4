/* SPDX-License-Identifier: Apache-2.0 */
/* The search for credentials, and the two sources that need no service: variables and profiles. */

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/store/creds_priv.h"

#include <errno.h>

/* ---- environment ---- */

int creds_environment(struct creds *ret_c, struct err *e)
{
    const char *key = aws_env("AWS_ACCESS_KEY_ID"), *secret = aws_env("AWS_SECRET_ACCESS_KEY");
    int code;

    if (!key && !secret)
        return err_set(e, CREDS_E_ABSENT, "AWS_ACCESS_KEY_ID is not set");
    if (!key || !secret)
        return err_set(e, -EINVAL, "%s is set, so %s is needed in the environment as well",
                       key ? "AWS_ACCESS_KEY_ID" : "AWS_SECRET_ACCESS_KEY",
                       key ? "AWS_SECRET_ACCESS_KEY" : "AWS_ACCESS_KEY_ID");
    code = creds_set(ret_c, slice_str(key), slice_str(secret),
                     slice_str(aws_env("AWS_SESSION_TOKEN")), SLICE_NULL, e);
    return code ? err_prefix(e, code, "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN")
                : 0;
}

static int from_environment(const struct aws_settings *s, int64_t left_ms, struct creds *ret_c,
                            struct err *e)
{
    (void)s;
    (void)left_ms;
    return creds_environment(ret_c, e);
}

/* ---- profile ---- */

static const char *or_none(const char *path)
{
    return path ? path : "~/.aws (HOME is not set)";
}

static int profile_absent(const struct aws_settings *s, struct err *e)
{
    if (s->named_by)
        return err_set(e, -EINVAL, "%s names profile \"%s\", which is neither in %s nor in %s",
                       s->named_by, s->profile, or_none(s->credentials_path),
                       or_none(s->config_path));
    return err_set(e, CREDS_E_ABSENT, "\"default\" is neither in %s nor in %s",
                   or_none(s->credentials_path), or_none(s->config_path));
}

/* What the AWS tools could do with this profile and we do not. */
static int refuse_kind(const struct aws_settings *s, const char *key, struct err *e)
{
    return err_set(e, -EINVAL,
                   "profile \"%s\" has %s, which is not supported: use keys or role_arn with "
                   "web_identity_token_file, or `aws configure export-credentials --profile %s "
                   "--format env`",
                   s->profile, key, s->profile);
}

static int profile_role(const struct aws_settings *s, const char *role, int64_t left_ms,
                        struct creds *ret_c, struct err *e)
{
    const char *file = aws_settings_get(s, "web_identity_token_file");

    if (file)
        return creds_assume(s, role, file, aws_settings_get(s, "role_session_name"), left_ms, ret_c,
                            e);
    return refuse_kind(s,
                       aws_settings_get(s, "source_profile") ? "role_arn with source_profile"
                       : aws_settings_get(s, "credential_source")
                           ? "role_arn with credential_source"
                           : "role_arn alone",
                       e);
}

static int from_profile(const struct aws_settings *s, int64_t left_ms, struct creds *ret_c,
                        struct err *e)
{
    static const char *const foreign[] = {"sso_session", "sso_start_url", "credential_process",
                                          "login_session"};
    const char *role = aws_settings_get(s, "role_arn");
    const char *key = aws_settings_get(s, "aws_access_key_id");
    const char *secret = aws_settings_get(s, "aws_secret_access_key");
    int code;

    if (!aws_settings_has_profile(s))
        return profile_absent(s, e);
    if (role)
        return profile_role(s, role, left_ms, ret_c, e);
    if (!key && !secret) {
        for (size_t i = 0; i < ARRAY_SIZE(foreign); i++)
            if (aws_settings_get(s, foreign[i]))
                return refuse_kind(s, foreign[i], e);
        return err_set(e, CREDS_E_ABSENT, "\"%s\" has no aws_access_key_id", s->profile);
    }
    code = creds_set(ret_c, slice_str(key), slice_str(secret),
                     slice_str(aws_settings_get(s, "aws_session_token")), SLICE_NULL, e);
    return code ? err_prefix(e, code, "profile \"%s\"", s->profile) : 0;
}

/* ---- the chain ---- */

static const struct {
    const char *name;
    int (*load)(const struct aws_settings *s, int64_t left_ms, struct creds *ret_c, struct err *e);
} sources[] = {
    {CREDS_ENVIRONMENT, from_environment},
    {CREDS_WEB_IDENTITY, creds_web_identity},
    {CREDS_PROFILE, from_profile},
    {CREDS_CONTAINER, creds_container},
    {CREDS_IMDS, creds_imds},
};

/* Asks the sources in turn, or the one that is named; notes in tried what each lacked. */
static int ask(const struct aws_settings *s, const char *source, int64_t end_ns,
               struct creds *ret_c, struct buf *tried, struct err *e)
{
    for (size_t i = 0; i < ARRAY_SIZE(sources); i++) {
        int64_t left_ms = MAX((end_ns - clock_mono_ns()) / NS_PER_MS, 1);
        struct err why = ERR_INIT;
        int code;

        if (source && !str_eq(source, sources[i].name))
            continue;
        code = sources[i].load(s, left_ms, ret_c, &why);
        if (code == 0)
            ret_c->source = sources[i].name;
        if (code == 0 || code == -ENOMEM)
            return code;
        if (code != CREDS_E_ABSENT)
            return err_set(e, code, "AWS credentials (%s): %s", sources[i].name,
                           err_text(&why, code));
        buf_appendf(tried, "%s%s: %s", tried->len ? "; " : "", sources[i].name,
                    err_text(&why, code));
    }
    return CREDS_E_ABSENT;
}

int creds_chain(const char *source, int64_t left_ms, struct creds *ret_c, struct err *e)
{
    CLEANUP(aws_settings_deinit) struct aws_settings s = {0};
    CLEANUP(buf_deinit) struct buf tried = BUF_INIT;
    int64_t end_ns = clock_mono_ns() + left_ms * NS_PER_MS;
    int code = aws_settings_load(&s, e);

    if (code)
        return code;
    code = CREDS_E_ABSENT;
    if (source)
        code = ask(&s, source, end_ns, ret_c, &tried, e);
    buf_reset(&tried);
    if (code == CREDS_E_ABSENT)
        code = ask(&s, NULL, end_ns, ret_c, &tried, e);
    if (code != CREDS_E_ABSENT)
        return code;
    /* Where there have been some before, there will be some again. */
    return err_set(e, source ? STORE_E_TRANSIENT : -EINVAL,
                   "no AWS credentials (%s): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                   "give this pod or machine a role",
                   buf_ok(&tried) ? "" : tried.data);
}
