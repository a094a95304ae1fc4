/* SPDX-License-Identifier: Apache-2.0 */
/* Options of a connection by redis-py's names, as they stand in the query of a URL and in Celery's settings.
 *
 * Certificates are verified and host names checked unless somebody says otherwise: Celery demands that the URL of a
 * result backend says ssl_cert_reqs, and takes a broker's rediss:// without it. Here both may leave it out. */
#include "celeryc/redis/endpoint.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "celeryc/base/buf.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"
#include "celeryc/redis/options_priv.h"

enum option_kind {
    OPTION_TEXT,
    OPTION_BOOL,
    OPTION_CERT_REQS,
    OPTION_SECONDS,
    OPTION_INTERVAL, /* seconds, 0: never */
    OPTION_IGNORED,  /* accepted, without meaning here */
};

struct option {
    const char *name;
    enum option_kind kind;
    size_t offset;
};

#define TLS_AT(field)   offsetof(struct redis_tls, field)
#define TLS_TEXT(which) (offsetof(struct redis_tls, text) + (which) * sizeof(char *))
#define AT(field)       offsetof(struct redis_options, field)

static const struct option tls_options[] = {
    {"ssl_cert_reqs", OPTION_CERT_REQS, TLS_AT(verify)},
    {"ssl_check_hostname", OPTION_BOOL, TLS_AT(check_host)},
    {"ssl_ca_certs", OPTION_TEXT, TLS_TEXT(REDIS_TLS_CA_CERTS)},
    {"ssl_ca_path", OPTION_TEXT, TLS_TEXT(REDIS_TLS_CA_PATH)},
    {"ssl_ca_data", OPTION_TEXT, TLS_TEXT(REDIS_TLS_CA_DATA)},
    {"ssl_certfile", OPTION_TEXT, TLS_TEXT(REDIS_TLS_CERTFILE)},
    {"ssl_keyfile", OPTION_TEXT, TLS_TEXT(REDIS_TLS_KEYFILE)},
    {"ssl_password", OPTION_TEXT, TLS_TEXT(REDIS_TLS_PASSWORD)},
    {NULL},
};

static const struct option options[] = {
    {"ssl", OPTION_BOOL, AT(tls.on)},
    {"socket_timeout", OPTION_SECONDS, AT(reply_timeout_ms)},
    {"socket_connect_timeout", OPTION_SECONDS, AT(connect_timeout_ms)},
    {"socket_keepalive", OPTION_BOOL, AT(keepalive)},
    {"health_check_interval", OPTION_INTERVAL, AT(health_ms)},
    {"retry_on_timeout", OPTION_IGNORED, 0}, /* we always do */
    {"max_connections", OPTION_IGNORED, 0},
    {"master_name", OPTION_TEXT, AT(master_name)},
    {NULL},
};

static const struct option sentinel_options[] = {
    {"username", OPTION_TEXT, AT(sentinel_user)},
    {"password", OPTION_TEXT, AT(sentinel_password)},
    {"ssl", OPTION_BOOL, AT(sentinel_tls.on)},
    {"socket_timeout", OPTION_IGNORED, 0}, /* the connection's own holds */
    {"socket_connect_timeout", OPTION_IGNORED, 0},
    {"socket_keepalive", OPTION_IGNORED, 0},
    {"health_check_interval", OPTION_IGNORED, 0},
    {NULL},
};

static int set_text(char **at, const char *value)
{
    char *copy = *value ? slice_dup(slice_str(value)) : NULL;
    if (*value && !copy)
        return -ENOMEM;
    free(*at);
    *at = copy;
    return 0;
}

static int wrong(const char *name, const char *value, const char *expected, struct err *e)
{
    return err_set(e, -EINVAL, "%s: \"%.80s\" is not %s", name, value, expected);
}

static int set_bool(const char *name, const char *value, enum redis_choice *at, struct err *e)
{
    static const char *const yes[] = {"true", "1", "yes", "on"};
    static const char *const no[] = {"false", "0", "no", "off"};
    for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
        if (strcasecmp(value, yes[i]) == 0)
            *at = REDIS_YES;
        else if (strcasecmp(value, no[i]) == 0)
            *at = REDIS_NO;
        else
            continue;
        return 0;
    }
    return wrong(name, value, "true or false", e);
}

/* A client has nothing to verify optionally: the server always shows a certificate. Python's ssl takes CERT_OPTIONAL
 * for CERT_REQUIRED there, and so do we. Numbers are the values of Python's constants. */
static int set_cert_reqs(const char *name, const char *value, enum redis_choice *at, struct err *e)
{
    static const char *const verify[] = {"required", "optional", "2", "1"};
    const char *v = strncasecmp(value, "CERT_", 5) == 0 ? value + 5 : value;
    if (strcasecmp(v, "none") == 0 || str_eq(v, "0")) {
        *at = REDIS_NO;
        return 0;
    }
    for (size_t i = 0; i < ARRAY_SIZE(verify); i++) {
        if (strcasecmp(v, verify[i]) == 0) {
            *at = REDIS_YES;
            return 0;
        }
    }
    return wrong(name, value, "one of required, optional, none", e);
}

static int set_seconds(const char *name, const char *value, bool zero_is_never, int64_t *at,
                       struct err *e)
{
    double seconds = 0;
    int r = num_parse_f64(slice_str(value), &seconds);
    if (r || !(seconds >= 0) || seconds > LIMIT_TIMEOUT_SECONDS || (seconds == 0 && !zero_is_never))
        return wrong(name, value, "a number of seconds", e);
    *at = seconds == 0 ? -1 : MAX((int64_t)(seconds * 1000), 1);
    return 0;
}

static int set_at(const struct option *t, void *base, const char *value, struct err *e)
{
    void *at = (char *)base + t->offset;
    switch (t->kind) {
    case OPTION_TEXT:
        return set_text(at, value);
    case OPTION_BOOL:
        return set_bool(t->name, value, at, e);
    case OPTION_CERT_REQS:
        return set_cert_reqs(t->name, value, at, e);
    case OPTION_SECONDS:
    case OPTION_INTERVAL:
        return set_seconds(t->name, value, t->kind == OPTION_INTERVAL, at, e);
    case OPTION_IGNORED:
        return 0;
    }
    return 0;
}

static int set_from(const struct option *table, void *base, const char *name, const char *value,
                    struct err *e)
{
    for (const struct option *t = table; t->name; t++) {
        if (str_eq(t->name, name))
            return set_at(t, base, value, e);
    }
    return -ENOENT;
}

static int set_tls(struct redis_tls *t, const char *name, const char *value, struct err *e)
{
    int r = set_from(tls_options, t, name, value, e);
    if (r == 0 && t->on == REDIS_UNSET)
        t->on = REDIS_YES;
    return r;
}

int redis_options_set(struct redis_options *o, const char *name, const char *value, struct err *e)
{
    int r = set_from(options, o, name, value, e);
    return r == -ENOENT ? set_tls(&o->tls, name, value, e) : r;
}

int redis_options_set_sentinel(struct redis_options *o, const char *name, const char *value,
                               struct err *e)
{
    int r = set_from(sentinel_options, o, name, value, e);
    return r == -ENOENT ? set_tls(&o->sentinel_tls, name, value, e) : r;
}

static void tls_deinit(struct redis_tls *t)
{
    for (size_t i = 0; i < REDIS_TLS_TEXTS; i++)
        free(t->text[i]);
}

void redis_options_deinit(struct redis_options *o)
{
    tls_deinit(&o->tls);
    tls_deinit(&o->sentinel_tls);
    free(o->master_name);
    free(o->sentinel_user);
    free(o->sentinel_password);
    *o = (struct redis_options){0};
}

/* ---- where nothing is said, what the other says ---- */

static int merge_text(char **to, const char *from)
{
    return *to || !from ? 0 : set_text(to, from);
}

static void merge_choice(enum redis_choice *to, enum redis_choice from)
{
    if (*to == REDIS_UNSET)
        *to = from;
}

int redis_tls_merge(struct redis_tls *to, const struct redis_tls *from)
{
    merge_choice(&to->on, from->on);
    merge_choice(&to->verify, from->verify);
    merge_choice(&to->check_host, from->check_host);
    for (size_t i = 0; i < REDIS_TLS_TEXTS; i++) {
        int r = merge_text(&to->text[i], from->text[i]);
        if (r)
            return r;
    }
    return 0;
}

int redis_options_merge(struct redis_options *to, const struct redis_options *from)
{
    if (!to->connect_timeout_ms)
        to->connect_timeout_ms = from->connect_timeout_ms;
    if (!to->reply_timeout_ms)
        to->reply_timeout_ms = from->reply_timeout_ms;
    if (!to->health_ms)
        to->health_ms = from->health_ms;
    merge_choice(&to->keepalive, from->keepalive);
    merge_choice(&to->shuffle, from->shuffle);
    int r = redis_tls_merge(&to->tls, &from->tls);
    if (r == 0)
        r = redis_tls_merge(&to->sentinel_tls, &from->sentinel_tls);
    if (r == 0)
        r = merge_text(&to->master_name, from->master_name);
    if (r == 0)
        r = merge_text(&to->sentinel_user, from->sentinel_user);
    return r ? r : merge_text(&to->sentinel_password, from->sentinel_password);
}
