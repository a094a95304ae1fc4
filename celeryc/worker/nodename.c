/* SPDX-License-Identifier: Apache-2.0 */
/* Node names are split at the first '@' before anything is expanded, as Celery does, so "%h" alone is celery@<host>. */

#include "celeryc/worker/nodename.h"

#include "celeryc/base/buf.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct parts {
    const char *text; /* for the error */
    struct slice h, n, d, p;
};

static int expand(struct buf *dst, struct slice s, const struct parts *x, struct err *e)
{
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] != '%') {
            buf_append_char(dst, s.p[i]);
            continue;
        }
        char c = ++i < s.len ? s.p[i] : '\0';
        if (c == 'h')
            buf_append_slice(dst, x->h);
        else if (c == 'n')
            buf_append_slice(dst, x->n);
        else if (c == 'd')
            buf_append_slice(dst, x->d);
        else if (c == 'p' && x->p.p)
            buf_append_slice(dst, x->p);
        else if (c == 'i')
            buf_append_char(dst, '0');
        else if (c == '%')
            buf_append_char(dst, '%');
        else if (c != 'I')
            return err_set(e, -EINVAL,
                           "'%s': unknown sign %%%c (known: %%h %%n %%d %%i %%I%s %%%%)", x->text,
                           c ? c : ' ', x->p.p ? " %p" : "");
    }
    return buf_ok(dst);
}

static struct slice domain_of(struct slice host)
{
    const char *dot = host.len ? memchr(host.p, '.', host.len) : NULL;
    return dot ? (struct slice){dot + 1, (size_t)(host.p + host.len - dot - 1)} : SLICE_LIT("");
}

int nodename_make(const char *name, const char *host, char **ret_node, struct err *e)
{
    if (!name)
        name = "";
    const char *at = strchr(name, '@');
    struct slice left = at ? (struct slice){name, (size_t)(at - name)} : SLICE_LIT("");
    struct slice right = slice_str(at ? at + 1 : name);
    struct slice full = slice_str(host), domain = domain_of(full);
    const struct parts x = {
        .text = name,
        .h = full,
        .n = {full.p, domain.len ? full.len - domain.len - 1 : full.len},
        .d = domain,
    };
    struct buf b = BUF_INIT;
    int r = expand(&b, left.len ? left : SLICE_LIT("celery"), &x, e);
    buf_append_char(&b, '@');
    if (r == 0)
        r = expand(&b, right.len ? right : SLICE_LIT("%h"), &x, e);
    if (r == 0)
        r = buf_ok(&b);
    if (r) {
        buf_deinit(&b);
        return r;
    }
    *ret_node = buf_take(&b);
    return *ret_node ? 0 : -ENOMEM;
}

int nodename_path(const char *path, const char *node, char **ret_path, struct err *e)
{
    const char *at = strchr(node, '@');
    struct slice host = slice_str(at ? at + 1 : node);
    const struct parts x = {
        .text = path,
        .h = host,
        .n = {node, at ? (size_t)(at - node) : strlen(node)},
        .d = domain_of(host),
        .p = slice_str(node),
    };
    struct buf b = BUF_INIT;
    int r = expand(&b, slice_str(path), &x, e);
    if (r) {
        buf_deinit(&b);
        return r;
    }
    *ret_path = buf_take(&b);
    return *ret_path ? 0 : -ENOMEM;
}

char *nodename_host(void)
{
    char name[256];
    if (gethostname(name, sizeof(name)) != 0)
        return strdup("localhost");
    name[sizeof(name) - 1] = '\0';
    return strdup(name);
}
