/* SPDX-License-Identifier: Apache-2.0 */
/* URLs as kombu reads them: the authority ends at the first '/' or '?', the last '@' in it ends the credentials, the
 * first ':' there ends the user. Parts are decoded after they are cut, so an encoded '/', '@' or ':' is data. A '#'
 * would silently cut a password, so it is refused with the advice to write %23. An error text never shows the
 * password. */

#include "celeryc/base/url.h"

#include "celeryc/base/codec.h"
#include "celeryc/base/num.h"

#include <ctype.h>
#include <errno.h>
#include <strings.h>

void url_deinit(struct url *u)
{
    if (!u)
        return;
    free(u->scheme);
    free(u->user);
    free(u->password);
    free(u->host);
    free(u->path);
    free(u->query);
    *u = (struct url){0};
}

static struct slice from_to(const char *from, const char *to)
{
    return (struct slice){from, (size_t)(to - from)};
}

/* The first byte of s that is in `set`, or its end. */
static const char *find_any(struct slice s, const char *set)
{
    for (size_t i = 0; i < s.len; i++) {
        if (strchr(set, s.p[i]))
            return s.p + i;
    }
    return s.p + s.len;
}

static char *decode(struct slice s)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    if (percent_decode(&b, s))
        return NULL;
    return buf_take(&b);
}

static int set_decoded(struct slice s, const char *what, char **ret_text, struct err *e)
{
    char *text = decode(s);

    if (!text)
        return -ENOMEM;
    /* A decoded NUL would make every later use of the part see something shorter. */
    if (memchr(s.p ? s.p : "", '\0', s.len) || memmem(s.p ? s.p : "", s.len, "%00", 3)) {
        free(text);
        return err_set(e, -EINVAL, "the %s of the URL contains a NUL byte", what);
    }
    *ret_text = text;
    return 0;
}

static int parse_scheme(const char *text, const char **ret_rest, struct url *u, struct err *e)
{
    const char *end = strstr(text, "://");

    if (!end || end == text)
        return err_set(e, -EINVAL, "not a URL: expected scheme://host/path");
    for (const char *p = text; p < end; p++) {
        if (!isalnum((unsigned char)*p) && (p == text || !strchr("+-.", *p)))
            return err_set(e, -EINVAL, "not a URL: bad character in the scheme");
    }
    u->scheme = slice_dup(from_to(text, end));
    if (!u->scheme)
        return -ENOMEM;
    for (char *p = u->scheme; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    *ret_rest = end + 3;
    return 0;
}

static int parse_credentials(struct slice s, struct url *u, struct err *e)
{
    const char *colon = find_any(s, ":");
    const char *end = s.p + s.len;
    int r = set_decoded(from_to(s.p, colon), "user", &u->user, e);

    if (r)
        return r;
    if (u->user[0] == '\0')
        u->user = mem_free(u->user);
    if (colon < end)
        r = set_decoded(from_to(colon + 1, end), "password", &u->password, e);
    return r;
}

static int parse_host_port(struct slice s, struct url *u, struct err *e)
{
    const char *end = s.p + s.len, *host_end, *port = NULL;
    uint32_t value;
    int r;

    if (s.len && s.p[0] == '[') {
        host_end = find_any(s, "]");
        if (host_end == end)
            return err_set(e, -EINVAL, "the URL's IPv6 address has no closing bracket");
        if (host_end + 1 < end && host_end[1] != ':')
            return err_set(e, -EINVAL, "unexpected text after the URL's IPv6 address");
        r = set_decoded(from_to(s.p + 1, host_end), "host", &u->host, e);
        port = host_end + 1 < end ? host_end + 2 : NULL;
    } else {
        host_end = memrchr(s.p, ':', s.len);
        port = host_end ? host_end + 1 : NULL;
        r = set_decoded(from_to(s.p, host_end ? host_end : end), "host", &u->host, e);
    }
    if (r || !port || port == end)
        return r;
    if (num_parse_u32(from_to(port, end), &value) || value < 1 || value > 65535)
        return err_set(
            e, -EINVAL,
            "bad port in the URL; a ':', '/' or '@' in a password is written %%3A, %%2F, %%40");
    u->port = (int)value;
    return 0;
}

int url_parse(const char *text, struct url *ret_url, struct err *e)
{
    CLEANUP(url_deinit) struct url u = {0};
    const char *rest = text, *authority_end, *path_end, *end, *at;
    int r = parse_scheme(text, &rest, &u, e);

    if (r)
        return r;
    end = rest + strlen(rest);
    if (strchr(rest, '#'))
        return err_set(e, -EINVAL, "a '#' in a URL must be written %%23");
    authority_end = find_any(from_to(rest, end), "/?");
    path_end = find_any(from_to(authority_end, end), "?");
    at = memrchr(rest, '@', (size_t)(authority_end - rest));
    if (at) {
        r = parse_credentials(from_to(rest, at), &u, e);
        if (r)
            return r;
        rest = at + 1;
    }
    r = parse_host_port(from_to(rest, authority_end), &u, e);
    if (r)
        return r;
    r = set_decoded(from_to(authority_end, path_end), "path", &u.path, e);
    if (r)
        return r;
    if (path_end < end) {
        u.query = slice_dup(from_to(path_end + 1, end));
        if (!u.query)
            return -ENOMEM;
    }
    *ret_url = u;
    u = (struct url){0};
    return 0;
}

/* Decodes a piece of a query string, where '+' is a space. */
static char *decode_query(struct slice s)
{
    CLEANUP(mem_free) char *copy = slice_dup(s);

    if (!copy)
        return NULL;
    for (size_t i = 0; i < s.len; i++) {
        if (copy[i] == '+')
            copy[i] = ' ';
    }
    return decode((struct slice){copy, s.len});
}

char *url_query(const struct url *u, const char *key)
{
    const char *p = u->query, *end;
    char *value = NULL;

    if (!p)
        return NULL;
    for (end = p + strlen(p); p < end; p++) {
        const char *pair_end = find_any(from_to(p, end), "&");
        const char *equals = find_any(from_to(p, pair_end), "=");
        CLEANUP(mem_free) char *name = decode_query(from_to(p, equals));

        if (str_eq(name, key)) {
            free(value);
            value = decode_query(equals < pair_end ? from_to(equals + 1, pair_end)
                                                   : from_to(pair_end, pair_end));
        }
        p = pair_end;
    }
    return value;
}

static bool contains_word(struct slice s, const char *word)
{
    size_t n = strlen(word);

    for (size_t i = 0; i + n <= s.len; i++) {
        if (strncasecmp(s.p + i, word, n) == 0)
            return true;
    }
    return false;
}

/* The query with the values of passwords, secrets and tokens masked. */
static void append_masked_query(struct buf *dst, struct slice s)
{
    const char *p = s.p, *end = s.p + s.len;

    while (p < end) {
        const char *pair_end = find_any(from_to(p, end), "&");
        const char *equals = find_any(from_to(p, pair_end), "=");
        struct slice name = from_to(p, equals);

        if (equals < pair_end && (contains_word(name, "password") ||
                                  contains_word(name, "secret") || contains_word(name, "token"))) {
            buf_append_slice(dst, name);
            buf_append_str(dst, "=**");
        } else {
            buf_append_slice(dst, from_to(p, pair_end));
        }
        if (pair_end < end)
            buf_append_char(dst, '&');
        p = pair_end + 1;
    }
}

/* Where the credentials end ('@'), or NULL. A password with a bare '/' or '?' makes the URL wrong, but it must not be
 * shown all the same: when what follows the first ':' is no port, the last '@' of the text ends the credentials. */
static const char *credentials_end(const char *rest, const char *end)
{
    const char *authority_end = find_any(from_to(rest, end), "/?#");
    const char *at = memrchr(rest, '@', (size_t)(authority_end - rest));
    const char *colon = find_any(from_to(rest, authority_end), ":");
    uint32_t port;

    if (at || colon == authority_end || *rest == '[')
        return at;
    if (colon + 1 < authority_end && num_parse_u32(from_to(colon + 1, authority_end), &port) == 0)
        return NULL;
    return memrchr(authority_end, '@', (size_t)(end - authority_end));
}

char *url_masked(const char *text)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    const char *rest = strstr(text, "://");
    const char *end = text + strlen(text), *at, *colon, *query;

    rest = rest ? rest + 3 : text;
    at = credentials_end(rest, end);
    buf_append_slice(&b, from_to(text, rest));
    if (at) {
        colon = find_any(from_to(rest, at), ":");
        buf_append_slice(&b, from_to(rest, colon));
        if (colon < at)
            buf_append_str(&b, ":**");
        rest = at;
    }
    query = find_any(from_to(rest, end), "?");
    buf_append_slice(&b, from_to(rest, query));
    if (query < end) {
        buf_append_char(&b, '?');
        append_masked_query(&b, from_to(query + 1, end));
    }
    return buf_take(&b);
}
