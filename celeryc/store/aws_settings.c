/* SPDX-License-Identifier: Apache-2.0 */
/* Where the AWS tools look for settings: variables first, then the profile in ~/.aws/credentials and ~/.aws/config. */

#include "celeryc/store/aws_settings.h"

#include "celeryc/base/limits.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <strings.h>
#include <unistd.h>

const char *aws_env(const char *name)
{
    const char *v =
        getenv(name); /* NOLINT(concurrency-mt-unsafe): nobody changes the environment */

    return v && *v ? v : NULL;
}

int aws_read_file(const char *path, size_t limit, struct buf *dst)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), code = fd < 0 ? -errno : 0;
    size_t start = dst->len;

    while (!code) {
        ssize_t n;

        buf_reserve(dst, 4096);
        if (dst->failed)
            code = -ENOMEM;
        n = code ? 0 : read(fd, dst->data + dst->len, 4096);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            code = -errno;
        if (n <= 0)
            break;
        dst->len += (size_t)n;
        if (dst->len - start > limit)
            code = -E2BIG;
    }
    if (fd >= 0)
        (void)close(fd);
    while (!code && dst->len > start && strchr("\r\n", dst->data[dst->len - 1]))
        dst->len--;
    if (dst->data)
        dst->data[dst->len] = '\0';
    return code;
}

/* The variable's path with ~ resolved, or the default below the home directory; NULL when there is none. */
static int file_path(const char *variable, const char *name, char **ret_path)
{
    const char *given = aws_env(variable), *home = aws_env("HOME");
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    if (!home && (!given || given[0] == '~'))
        return 0;
    if (!given)
        buf_appendf(&b, "%s/.aws/%s", home, name);
    else if (strncmp(given, "~/", 2) == 0)
        buf_appendf(&b, "%s%s", home, given + 1);
    else
        buf_append_str(&b, given);
    *ret_path = buf_take(&b);
    return *ret_path ? 0 : -ENOMEM;
}

static int load_file(const char *path, struct aws_ini *ini, struct err *e)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    int code = path ? aws_read_file(path, LIMIT_CONFIG_BYTES, &text) : -ENOENT;

    if (code == -ENOENT || code == -ENOTDIR || code == -EACCES)
        return 0;
    if (code)
        return err_set(e, code == -ENOMEM ? code : -EINVAL, "cannot read %s: %s", path,
                       err_errno(code));
    code = aws_ini_parse(buf_slice(&text), ini, e);
    return code ? err_prefix(e, code, "%s", path) : 0;
}

static struct aws_settings take(struct aws_settings *s)
{
    struct aws_settings taken = *s;

    *s = (struct aws_settings){0};
    return taken;
}

int aws_settings_load(struct aws_settings *ret_s, struct err *e)
{
    CLEANUP(aws_settings_deinit) struct aws_settings s = {.profile = "default"};
    static const char *const variables[] = {"AWS_PROFILE", "AWS_DEFAULT_PROFILE"};
    int code = file_path("AWS_CONFIG_FILE", "config", &s.config_path);

    for (size_t i = 0; i < ARRAY_SIZE(variables) && !s.named_by; i++) {
        if (aws_env(variables[i])) {
            s.named_by = variables[i];
            s.profile = aws_env(variables[i]);
        }
    }
    if (!code)
        code = file_path("AWS_SHARED_CREDENTIALS_FILE", "credentials", &s.credentials_path);
    if (!code)
        code = load_file(s.config_path, &s.config, e);
    if (!code)
        code = load_file(s.credentials_path, &s.credentials, e);
    if (code)
        return code;
    *ret_s = take(&s);
    return 0;
}

void aws_settings_deinit(struct aws_settings *s)
{
    free(s->config_path);
    free(s->credentials_path);
    aws_ini_deinit(&s->config);
    aws_ini_deinit(&s->credentials);
    *s = (struct aws_settings){0};
}

/* "profile x"; the default one may be written without the word. False when the name is absurdly long. */
static bool section_name(const struct aws_settings *s, char *dst, size_t size)
{
    int n = snprintf(dst, size, "profile %s", s->profile);

    return n > 0 && (size_t)n < size;
}

bool aws_settings_has_profile(const struct aws_settings *s)
{
    char section[256];

    return (section_name(s, section, sizeof(section)) && aws_ini_has(&s->config, section)) ||
           aws_ini_has(&s->credentials, s->profile) ||
           (str_eq(s->profile, "default") && aws_ini_has(&s->config, "default"));
}

static const char *config_get(const struct aws_settings *s, const char *key)
{
    const char *v = NULL;
    char section[256];

    if (section_name(s, section, sizeof(section)))
        v = aws_ini_get(&s->config, section, key);
    if (!v && str_eq(s->profile, "default"))
        v = aws_ini_get(&s->config, "default", key);
    return v;
}

const char *aws_settings_get(const struct aws_settings *s, const char *key)
{
    const char *v = aws_ini_get(&s->credentials, s->profile, key);

    return v ? v : config_get(s, key);
}

bool aws_region_is_valid(const char *region)
{
    size_t n = strlen(region);

    for (const char *c = region; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '-' && *c != '_')
            return false;
    return n > 0 && n < 64;
}

int aws_settings_region(const struct aws_settings *s, const char **ret_region, struct err *e)
{
    const char *region = aws_env("AWS_REGION"), *where = "AWS_REGION";

    if (!region) {
        region = aws_env("AWS_DEFAULT_REGION");
        where = "AWS_DEFAULT_REGION";
    }
    if (!region) {
        region = config_get(s, "region");
        where = "region in the AWS profile";
    }
    if (!region)
        region = "us-east-1";
    if (!aws_region_is_valid(region))
        return err_set(e, -EINVAL, "%s: \"%.80s\" is no region's name", where, region);
    *ret_region = region;
    return 0;
}

const char *aws_settings_endpoint(const struct aws_settings *s, const char *service)
{
    char name[40], section[256];
    const char *v, *services;

    (void)snprintf(name, sizeof(name), "AWS_ENDPOINT_URL_%s", service);
    for (char *c = name; *c; c++)
        *c = (char)toupper((unsigned char)*c);
    v = aws_env(name);
    if (!v)
        v = aws_env("AWS_ENDPOINT_URL");
    services = v ? NULL : config_get(s, "services");
    if (services) {
        (void)snprintf(section, sizeof(section), "services %s", services);
        (void)snprintf(name, sizeof(name), "%s.endpoint_url", service);
        v = aws_ini_get(&s->config, section, name);
    }
    return v ? v : config_get(s, "endpoint_url");
}

const char *aws_settings_ca_bundle(const struct aws_settings *s)
{
    const char *v = aws_env("AWS_CA_BUNDLE");

    return v ? v : config_get(s, "ca_bundle");
}

static bool is_on(const struct aws_settings *s, const char *variable, const char *key)
{
    const char *v = aws_env(variable);

    if (!v)
        v = config_get(s, key);
    return v && strcasecmp(v, "true") == 0;
}

void aws_settings_amazon(const struct aws_settings *s, const char *service, const char *region,
                         struct buf *dst)
{
    bool fips = is_on(s, "AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint");
    /* The names of other services have no part for it. */
    bool dual =
        str_eq(service, "s3") && is_on(s, "AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint");

    buf_appendf(dst, "https://%s%s%s.%s.amazonaws.com%s", service, fips ? "-fips" : "",
                dual ? ".dualstack" : "", region, strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
}
