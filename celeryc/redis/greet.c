/* SPDX-License-Identifier: Apache-2.0 */
/* What is said first on every connection: who we are, which database, what the server is, our scripts. All of it leaves
 * in one write; the connection is up when the last answer is there. */
#include <errno.h>
#include <string.h>

#include "celeryc/redis/conn_priv.h"

static void greet_failed(struct redis_conn *c, const char *what, const struct redis_reply *reply)
{
    char text[512];
    (void)snprintf(text, sizeof(text), "%s: %s", what, redis_reply_error(reply));
    conn_lose(c, text, true);
}

static void wants_password(struct redis_conn *c, const struct redis_reply *reply)
{
    greet_failed(c,
                 c->route.at->is_sentinel
                     ? "the Sentinel wants a password; give it in sentinel_kwargs"
                     : "the server wants a password; give it in the URL",
                 reply);
}

static void on_auth(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply || redis_reply_ok(reply))
        return;
    greet_failed(c,
                 c->route.at->is_sentinel
                     ? "the Sentinel refused the user or password of sentinel_kwargs"
                     : "the server refused the user or password",
                 reply);
}

/* The first answer of all: a server in protected mode or out of clients says so here and hangs up. */
static void on_setname(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply || redis_reply_ok(reply))
        return;
    if (strncmp(reply->str.p, "DENIED", 6) == 0 || strncmp(reply->str.p, "ERR max", 7) == 0)
        greet_failed(c, "the server refused the connection", reply);
}

static void on_select(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply || redis_reply_ok(reply))
        return;
    if (strncmp(reply->str.p, "NOAUTH", 6) == 0)
        wants_password(c, reply);
    else
        greet_failed(c, "cannot select the database", reply);
}

static void on_client_id(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply)
        return;
    if (reply->kind == REDIS_R_INTEGER)
        c->client_id = reply->integer;
    else if (strncmp(reply->str.p ? reply->str.p : "", "NOAUTH", 6) == 0)
        wants_password(c, reply);
}

/* The value of "name:" in INFO's text. */
static struct slice info_value(struct slice info, const char *name)
{
    size_t len = strlen(name);
    const char *p = info.p, *end = info.p + info.len;
    while (p < end) {
        const char *eol = memchr(p, '\r', (size_t)(end - p));
        if (!eol)
            eol = end;
        if ((size_t)(eol - p) > len && memcmp(p, name, len) == 0 && p[len] == ':')
            return (struct slice){p + len + 1, (size_t)(eol - p) - len - 1};
        p = eol + 1;
        if (p < end && *p == '\n')
            p++;
    }
    return SLICE_NULL;
}

static int parse_version(struct slice s)
{
    uint32_t part[3] = {0};
    size_t n = 0;
    for (size_t i = 0; i < s.len && n < 3; i++) {
        if (s.p[i] == '.')
            n++;
        else if (s.p[i] >= '0' && s.p[i] <= '9' && part[n] < 1000)
            part[n] = part[n] * 10 + (uint32_t)(s.p[i] - '0');
        else
            return 0;
    }
    return (int)(part[0] * 10000 + part[1] * 100 + part[2]);
}

static void on_info(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply || reply->kind == REDIS_R_ERROR)
        return; /* INFO may be denied: the run_id is then unknown */
    if (reply->kind != REDIS_R_STRING) {
        conn_lose(c, "not a Redis server: strange answer to INFO", true);
        return;
    }
    struct slice run_id = info_value(reply->str, "run_id");
    if (run_id.len < sizeof(c->run_id)) {
        memcpy(c->run_id, run_id.p ? run_id.p : "", run_id.len);
        c->run_id[run_id.len] = '\0';
    }
    c->version = parse_version(info_value(reply->str, "redis_version"));
}

static void on_script(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply)
        return;
    if (reply->kind != REDIS_R_STRING || reply->str.len != SHA_BYTES) {
        char what[96];
        (void)snprintf(what, sizeof(what), "cannot load the script \"%s\"",
                       c->o.scripts[c->greet_next_sha]->name);
        greet_failed(c, what, reply);
        return;
    }
    memcpy(c->shas[c->greet_next_sha++], reply->str.p, SHA_BYTES);
}

/* "master", or where it is one of several that could be meant: not a replica, which would refuse every write. */
static void on_role(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    char text[512];
    if (!reply || reply->kind != REDIS_R_ARRAY || reply->n == 0 ||
        !slice_eq_str(reply->elem[0]->str, "slave"))
        return; /* ROLE may be denied */
    (void)snprintf(text, sizeof(text), "%s is a replica at the moment", c->route.shown);
    conn_lose(c, text, true);
}

static bool reached_another(const struct redis_conn *c)
{
    const struct redis_conn *leader = c->o.leader;
    return leader && !str_eq(c->run_id, leader->run_id);
}

static void on_greeted(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply)
        return;
    if (reply->kind == REDIS_R_ERROR) {
        greet_failed(c, "the server refused PING", reply);
        return;
    }
    if (reached_another(c)) {
        conn_lose(c, "this is another server than the command connection's", true);
        return;
    }
    conn_set_state(c, CONN_UP);
    if (c->cb.on_up)
        c->cb.on_up(c, c->arg);
}

static void send_words(struct redis_conn *c, redis_reply_fn fn, size_t n, const char *const *words)
{
    struct slice argv[4];
    for (size_t i = 0; i < n; i++)
        argv[i] = slice_str(words[i]);
    conn_send(c, fn, c->o.connect_timeout_ms, n, argv);
}

void conn_greet(struct redis_conn *c)
{
    const struct redis_endpoint *ep = &c->route.target;
    c->greet_next_sha = 0;
    if (ep->user)
        send_words(c, on_auth, 3,
                   (const char *[]){"AUTH", ep->user, ep->password ? ep->password : ""});
    else if (ep->password)
        send_words(c, on_auth, 2, (const char *[]){"AUTH", ep->password});
    if (ep->db) {
        char db[16];
        (void)snprintf(db, sizeof(db), "%d", ep->db);
        send_words(c, on_select, 2, (const char *[]){"SELECT", db});
    }
    if (c->o.client_name)
        send_words(c, on_setname, 3, (const char *[]){"CLIENT", "SETNAME", c->o.client_name});
    send_words(c, on_client_id, 2, (const char *[]){"CLIENT", "ID"});
    if (route_has_choice(&c->route))
        send_words(c, on_role, 1, (const char *[]){"ROLE"});
    send_words(c, on_info, 2, (const char *[]){"INFO", "server"});
    for (size_t i = 0; i < c->n_scripts; i++)
        send_words(c, on_script, 3, (const char *[]){"SCRIPT", "LOAD", c->o.scripts[i]->source});
    send_words(c, on_greeted, 1, (const char *[]){"PING"});
    redis_conn_flush(c);
}
