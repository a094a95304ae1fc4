/* SPDX-License-Identifier: Apache-2.0 */
/* Database aliases and the connections of a thread.
 *
 * An alias is all that a message knows of a database; the worker's options, then its environment, say where it is. A
 * thread keeps one connection for each alias and shares it with nobody; a thread that ends closes its own. Connections
 * are made on first use, so that none is carried over a fork. */

#include "celeryc/migrate/runtime.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static int key_error;

static void close_list(void *p)
{
    for (struct connection *c = p, *next; c; c = next) {
        next = c->next;
        (void)db_close(c->db);
        free(c->alias);
        free(c);
    }
}

static void make_key(void)
{
    key_error = pthread_key_create(&key, close_list);
}

void connections_close(void)
{
    (void)pthread_once(&once, make_key);
    if (key_error)
        return;
    close_list(pthread_getspecific(key));
    (void)pthread_setspecific(key, NULL);
}

/* SCATTER_DATABASE_<ALIAS>: letters in upper case, anything but letters and digits as '_'. */
static const char *from_environment(const char *alias)
{
    CLEANUP(buf_deinit) struct buf name = BUF_INIT;
    const char *url;

    buf_append_str(&name, "SCATTER_DATABASE_");
    for (const char *p = alias; *p; p++)
        buf_append_char(&name, isalnum((unsigned char)*p) ? (char)toupper((unsigned char)*p) : '_');
    if (buf_ok(&name))
        return NULL;
    url = getenv(name.data); /* NOLINT(concurrency-mt-unsafe): nobody changes the environment */
    if ((!url || !*url) && str_eq(alias, "default"))
        url = getenv("SCATTER_DATABASE"); /* NOLINT(concurrency-mt-unsafe) */
    return url && *url ? url : NULL;
}

const char *connection_url(const struct runtime *rt, const char *alias)
{
    size_t len = strlen(alias);

    for (size_t i = 0; rt->options.databases && rt->options.databases[i]; i++) {
        const char *text = rt->options.databases[i];

        if (strncmp(text, alias, len) == 0 && text[len] == '=')
            return text + len + 1;
    }
    return from_environment(alias);
}

static int unknown_alias(const char *alias, struct err *e)
{
    return err_set(
        e, -EINVAL,
        "this worker does not know the database '%s': start it with --database %s=URL or "
        "set SCATTER_DATABASE%s",
        alias, alias,
        str_eq(alias, "default") ? "" : "_<ALIAS> (in upper case) in its environment");
}

int connection_get(const struct runtime *rt, const char *alias, struct connection **ret_c,
                   struct err *e)
{
    struct connection *list, *c;
    const char *url;
    int r;

    (void)pthread_once(&once, make_key);
    if (key_error)
        return -key_error;
    list = pthread_getspecific(key);
    for (c = list; c; c = c->next) {
        if (str_eq(c->alias, alias)) {
            *ret_c = c;
            return 0;
        }
    }
    url = connection_url(rt, alias);
    if (!url)
        return unknown_alias(alias, e);
    c = calloc(1, sizeof(*c));
    if (!c || !(c->alias = slice_dup(slice_str(alias)))) {
        free(c);
        return -ENOMEM;
    }
    r = db_open(url, &c->db, e);
    if (!r) {
        db_set_copy(c->db, rt->options.copy);
        r = db_ensure_schema(c->db, e);
    }
    c->next = list;
    if (!r && pthread_setspecific(key, c))
        r = -ENOMEM;
    if (r) {
        c->next = NULL;
        close_list(c);
        return err_prefix(e, r, "database '%s'", alias);
    }
    *ret_c = c;
    return 0;
}
