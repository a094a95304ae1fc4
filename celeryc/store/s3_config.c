/* SPDX-License-Identifier: Apache-2.0 */
/* Settings of an S3 store: its URL, the variables and the profile that the AWS tools read, and our own SCATTER_S3_*. */

#include "celeryc/store/s3_priv.h"

#include <ctype.h>
#include <errno.h>
#include <strings.h>

static bool all_of(const char *s, const char *extra)
{
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr(extra, *s))
            return false;
    return true;
}

static int copy(const char *text, char **ret_text)
{
    if (!text)
        return 0;
    *ret_text = slice_dup(slice_str(text));
    return *ret_text ? 0 : -ENOMEM;
}

static int set_place(struct s3 *s, const char *rest, struct err *e)
{
    size_t n = strcspn(rest, "/"), len;

    s->bucket = slice_dup((struct slice){rest, n});
    if (!s->bucket)
        return -ENOMEM;
    if (n < 3 || n > 255 || !all_of(s->bucket, ".-_") || strstr(s->bucket, ".."))
        return err_set(e, -EINVAL,
                       "store s3://%s: expected s3://bucket/prefix with a bucket's name", rest);
    rest += n;
    rest += strspn(rest, "/");
    len = strlen(rest);
    while (len && rest[len - 1] == '/')
        len--;
    s->prefix = slice_dup((struct slice){rest, len});
    return s->prefix ? 0 : -ENOMEM;
}

static int set_region(struct s3 *s, struct err *e)
{
    const char *region = NULL;
    int code = aws_settings_region(&s->aws, &region, e);

    return code ? code : copy(region, &s->region);
}

/* A half of the pair in the environment is a mistake that needs no server to be seen. */
static int check_keys(const struct s3 *s, struct err *e)
{
    CLEANUP(creds_deinit) struct creds c = {0};
    struct err why = ERR_INIT;
    int code = creds_environment(&c, &why);

    if (code == 0 || code == CREDS_E_ABSENT)
        return 0;
    return err_set(e, code, "store s3://%s: %s", s->bucket, err_text(&why, code));
}

/* An endpoint that was given: scheme and host checked, trailing slashes cut. */
static int set_endpoint(struct s3 *s, const char *text, struct err *e)
{
    size_t len = strlen(text);
    const char *host = strstr(text, "://");

    if ((strncasecmp(text, "http://", 7) != 0 && strncasecmp(text, "https://", 8) != 0) ||
        strpbrk(text, "@?# \t\r\n") || !host[3] || host[3] == '/')
        return err_set(e, -EINVAL,
                       "AWS_ENDPOINT_URL: expected http://host:port or https://host (without user, "
                       "query or spaces)");
    while (len && text[len - 1] == '/')
        len--;
    s->endpoint = slice_dup((struct slice){text, len});
    return s->endpoint ? 0 : -ENOMEM;
}

static int set_base(struct s3 *s, bool virtual_host)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    const char *host = strstr(s->endpoint, "://") + 3;

    if (virtual_host)
        buf_appendf(&b, "%.*s%s.%s", (int)(host - s->endpoint), s->endpoint, s->bucket, host);
    else
        buf_appendf(&b, "%s/%s", s->endpoint, s->bucket);
    if (*s->prefix) {
        buf_append_char(&b, '/');
        s3_escape_path(&b, s->prefix);
    }
    s->base = buf_take(&b);
    return s->base ? 0 : -ENOMEM;
}

static int set_address(struct s3 *s, struct err *e)
{
    const char *given = aws_settings_endpoint(&s->aws, "s3");
    const char *style = aws_env("SCATTER_S3_ADDRESSING");
    CLEANUP(buf_deinit) struct buf amazon = BUF_INIT;
    bool virtual_host;
    int code;

    if (!given)
        aws_settings_amazon(&s->aws, "s3", s->region, &amazon);
    if (!given && buf_ok(&amazon))
        return -ENOMEM;
    code = set_endpoint(s, given ? given : amazon.data, e);
    if (code)
        return code;
    if (!style)
        style = aws_settings_get(&s->aws, "s3.addressing_style");
    if (!style || str_eq(style, "auto"))
        /* A dot in the bucket's name breaks Amazon's certificate for *.s3.<region>.amazonaws.com. */
        virtual_host = !given && !strchr(s->bucket, '.');
    else if (str_eq(style, "path") || str_eq(style, "virtual"))
        virtual_host = *style == 'v';
    else
        return err_set(e, -EINVAL, "SCATTER_S3_ADDRESSING: \"%.40s\" is not path, virtual or auto",
                       style);
    return set_base(s, virtual_host);
}

static bool is_header_text(const char *text)
{
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c <= 0x20 || (unsigned char)*c >= 0x7f)
            return false;
    return strlen(text) < 2048;
}

/* How objects are kept; S3 says itself what it thinks of a value that is well-formed. */
static int set_keeping(struct s3 *s, struct err *e)
{
    static const char *const names[] = {"SCATTER_S3_SSE", "SCATTER_S3_SSE_KMS_KEY_ID",
                                        "SCATTER_S3_STORAGE_CLASS"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (aws_env(names[i]) && !is_header_text(aws_env(names[i])))
            return err_set(e, -EINVAL, "%s holds spaces or control bytes", names[i]);
    s->sse = aws_env("SCATTER_S3_SSE");
    s->sse_key = aws_env("SCATTER_S3_SSE_KMS_KEY_ID");
    s->storage_class = aws_env("SCATTER_S3_STORAGE_CLASS");
    if (s->sse && !str_eq(s->sse, "AES256") && !str_eq(s->sse, "aws:kms") &&
        !str_eq(s->sse, "aws:kms:dsse"))
        return err_set(e, -EINVAL,
                       "SCATTER_S3_SSE: \"%.40s\" is not AES256, aws:kms or aws:kms:dsse", s->sse);
    if (s->sse_key && (!s->sse || str_eq(s->sse, "AES256")))
        return err_set(e, -EINVAL, "SCATTER_S3_SSE_KMS_KEY_ID needs SCATTER_S3_SSE=aws:kms");
    return 0;
}

void s3_escape_path(struct buf *dst, const char *path)
{
    static const char hex[] = "0123456789ABCDEF";

    for (; *path; path++) {
        unsigned char c = (unsigned char)*path;

        if (isalnum(c) || strchr("-._~/", c)) {
            buf_append_char(dst, (char)c);
        } else {
            char escaped[3] = {'%', hex[c >> 4], hex[c & 15]};

            buf_append(dst, escaped, sizeof(escaped));
        }
    }
}

int s3_move(struct s3 *s, const char *region, struct err *e)
{
    struct s3 there = *s;
    int code;

    there.endpoint = there.base = NULL;
    there.region = slice_dup(slice_str(region));
    code = there.region ? set_address(&there, e) : -ENOMEM;
    if (code == 0) {
        struct s3 here = *s;

        *s = there;
        there = here;
    }
    free(there.region);
    free(there.endpoint);
    free(there.base);
    return code;
}

int s3_configure(struct s3 *s, const char *rest, struct err *e)
{
    int code = set_place(s, rest, e);

    if (!code)
        code = check_keys(s, e);
    if (!code)
        code = aws_settings_load(&s->aws, e);
    if (!code)
        code = set_region(s, e);
    if (!code)
        code = set_keeping(s, e);
    s->ca_bundle = aws_settings_ca_bundle(&s->aws);
    return code ? code : set_address(s, e);
}
