/* SPDX-License-Identifier: Apache-2.0 */
/* Settings of an S3 store: the URL and the environment variables that the AWS tools read. Secrets stay in struct s3
 * and never reach an error text. */

#include "celeryc/store/s3_priv.h"

#include <ctype.h>
#include <errno.h>
#include <strings.h>

static const char *env(const char *name)
{
    const char *v =
        getenv(name); /* NOLINT(concurrency-mt-unsafe): nobody changes the environment */

    return v && *v ? v : NULL;
}

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

static int set_keys(struct s3 *s, struct err *e)
{
    int code = copy(env("AWS_ACCESS_KEY_ID"), &s->key_id);

    if (!code)
        code = copy(env("AWS_SECRET_ACCESS_KEY"), &s->secret);
    if (!code)
        code = copy(env("AWS_SESSION_TOKEN"), &s->token);
    if (!code)
        code = copy(env("AWS_CA_BUNDLE"), &s->ca_bundle);
    if (code)
        return code;
    if (!s->key_id || !s->secret)
        return err_set(e, -EINVAL, "store s3://%s needs %s in the environment", s->bucket,
                       s->key_id   ? "AWS_SECRET_ACCESS_KEY"
                       : s->secret ? "AWS_ACCESS_KEY_ID"
                                   : "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
    if (!all_of(s->key_id, "-_.+=/") || (s->token && strpbrk(s->token, "\r\n")))
        return err_set(e, -EINVAL,
                       "AWS_ACCESS_KEY_ID or AWS_SESSION_TOKEN holds characters that no key has");
    return 0;
}

static int set_region(struct s3 *s, struct err *e)
{
    const char *region = env("AWS_REGION");

    if (!region)
        region = env("AWS_DEFAULT_REGION");
    if (!region)
        region = "us-east-1";
    if (strlen(region) > 63 || !all_of(region, "-_"))
        return err_set(e, -EINVAL, "AWS_REGION: \"%.80s\" is no region's name", region);
    return copy(region, &s->region);
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
    const char *given = env("AWS_ENDPOINT_URL_S3"), *style = env("SCATTER_S3_ADDRESSING");
    CLEANUP(buf_deinit) struct buf amazon = BUF_INIT;
    bool virtual_host;
    int code;

    if (!given)
        given = env("AWS_ENDPOINT_URL");
    if (!given)
        buf_appendf(&amazon, "https://s3.%s.amazonaws.com", s->region);
    if (!given && buf_ok(&amazon))
        return -ENOMEM;
    code = set_endpoint(s, given ? given : amazon.data, e);
    if (code)
        return code;
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

int s3_configure(struct s3 *s, const char *rest, struct err *e)
{
    int code = set_place(s, rest, e);

    if (!code)
        code = set_keys(s, e);
    if (!code)
        code = set_region(s, e);
    return code ? code : set_address(s, e);
}
