/* SPDX-License-Identifier: Apache-2.0 */
/* Starting scatter-plan beside this program, once for each database, and again when it ended by itself.
 *
 * The master holds no connection to a target database and must not wait for one, and a child may be busy for long: so a
 * process of its own sweeps, opens and closes maintenance windows, and is the governor when it is elected. URLs, and
 * what the settings say of TLS and Sentinel, travel in its environment. It ends when this process is gone (--attached). */

#include "celeryc/worker/keeper.h"

#include "celeryc/base/buf.h"
#include "celeryc/base/clock.h"
#include "celeryc/base/log.h"
#include "celeryc/base/num.h"
#include "celeryc/base/opt.h"
#include "celeryc/message/json.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define PROGRAM     "scatter-plan"
#define DEFAULT_S   30
#define RESTART_MS  10000
#define MAX_EVERY_S 86400
#define VARIABLE    "SCATTER_DATABASE"
#define MAX_KEEPERS 64

struct keeper {
    struct keepers *all;
    char *alias;
    uv_process_t process;
    uv_timer_t again;
    bool alive;
};

struct keepers {
    uv_loop_t *loop;
    char *program, *seconds, *key_prefix;
    struct strv env; /* of every process; ours follows at each start */
    struct keeper k[MAX_KEEPERS];
    size_t n;
    bool stopping;
};

static void start(struct keeper *k);

/* ---- what to run ---- */

static int seconds_between(void)
{
    const char *text = opt_env("SCATTER_SWEEP");
    int64_t ns;

    if (!text || !*text)
        return DEFAULT_S;
    if (num_parse_duration_ns(slice_str(text), &ns) || ns < 0 || ns > MAX_EVERY_S * NS_PER_S) {
        log_warning("SCATTER_SWEEP=%s is no time up to 24 h: every %d s", text, DEFAULT_S);
        return DEFAULT_S;
    }
    return (int)(ns / NS_PER_S);
}

/* Both programs are installed side by side. */
static char *find_program(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - sizeof(PROGRAM) - 1);

    if (n <= 0)
        return NULL;
    path[n] = '\0';
    char *slash = strrchr(path, '/');

    if (!slash)
        return NULL;
    memcpy(slash + 1, PROGRAM, sizeof(PROGRAM));
    return access(path, X_OK) ? NULL : slice_dup(slice_str(path));
}

static int add_variable(struct strv *env, const char *alias, size_t len, const char *url)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_append_str(&b, VARIABLE "_");
    for (size_t i = 0; i < len; i++)
        buf_append_char(
            &b, isalnum((unsigned char)alias[i]) ? (char)toupper((unsigned char)alias[i]) : '_');
    buf_appendf(&b, "=%s", url);
    return buf_ok(&b) ? -ENOMEM : strv_add(env, b.data);
}

static int add_keeper(struct keepers *all, const char *alias, size_t len)
{
    for (size_t i = 0; i < all->n; i++)
        if (strlen(all->k[i].alias) == len && strncasecmp(all->k[i].alias, alias, len) == 0)
            return 0;
    if (all->n == MAX_KEEPERS)
        return 0;
    struct keeper *k = &all->k[all->n];

    k->alias = slice_dup((struct slice){alias, len});
    if (!k->alias)
        return -ENOMEM;
    for (char *p = k->alias; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    k->all = all;
    all->n++;
    return 0;
}

/* SCATTER_DATABASE=url is "default", SCATTER_DATABASE_X=url is "x". */
static int from_environment(struct keepers *all)
{
    int r = 0;

    for (char **e = environ; !r && *e; e++) {
        const char *name = *e, *eq = strchr(name, '=');

        if (!eq || !eq[1] || strncmp(name, VARIABLE, sizeof(VARIABLE) - 1) != 0)
            continue;
        name += sizeof(VARIABLE) - 1;
        if (name == eq)
            r = add_keeper(all, "default", strlen("default"));
        else if (*name == '_' && name + 1 < eq)
            r = add_keeper(all, name + 1, (size_t)(eq - name) - 1);
    }
    return r;
}

/* ---- the broker's settings, by redis-py's names ---- */

static void put_name(struct buf *b, const char *name)
{
    buf_append_str(b, b->len && b->data[b->len - 1] == '{' ? "" : ", ");
    json_write_string(b, slice_str(name));
    buf_append_str(b, ": ");
}

static void put_text(struct buf *b, const char *name, const char *value)
{
    if (!value)
        return;
    put_name(b, name);
    json_write_string(b, slice_str(value));
}

static void put_choice(struct buf *b, const char *name, enum redis_choice c, const char *yes,
                       const char *no)
{
    if (c != REDIS_UNSET)
        put_text(b, name, c == REDIS_YES ? yes : no);
}

static void put_seconds(struct buf *b, const char *name, int64_t ms)
{
    if (ms <= 0)
        return;
    put_name(b, name);
    buf_appendf(b, "%.3f", (double)ms / 1000);
}

static void put_tls(struct buf *b, const struct redis_tls *t)
{
    static const char *const names[REDIS_TLS_TEXTS] = {
        [REDIS_TLS_CA_CERTS] = "ssl_ca_certs", [REDIS_TLS_CA_PATH] = "ssl_ca_path",
        [REDIS_TLS_CA_DATA] = "ssl_ca_data",   [REDIS_TLS_CERTFILE] = "ssl_certfile",
        [REDIS_TLS_KEYFILE] = "ssl_keyfile",   [REDIS_TLS_PASSWORD] = "ssl_password"};

    put_choice(b, "ssl", t->on, "true", "false");
    put_choice(b, "ssl_cert_reqs", t->verify, "required", "none");
    put_choice(b, "ssl_check_hostname", t->check_host, "true", "false");
    for (size_t i = 0; i < REDIS_TLS_TEXTS; i++)
        put_text(b, names[i], t->text[i]);
}

/* planner/servers.c reads it. Nothing is said where the settings say nothing. */
static int add_broker_options(struct strv *env, const struct redis_options *o)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT, sentinel = BUF_INIT;

    buf_append_char(&sentinel, '{');
    put_text(&sentinel, "username", o->sentinel_user);
    put_text(&sentinel, "password", o->sentinel_password);
    put_tls(&sentinel, &o->sentinel_tls);
    bool sentinels = sentinel.len > 1;

    buf_append_char(&sentinel, '}');
    buf_append_str(&b, "SCATTER_BROKER_OPTIONS={");
    size_t empty = b.len;

    put_tls(&b, &o->tls);
    put_seconds(&b, "socket_timeout", o->reply_timeout_ms);
    put_seconds(&b, "socket_connect_timeout", o->connect_timeout_ms);
    put_text(&b, "master_name", o->master_name);
    if (sentinels) {
        put_name(&b, "sentinel_kwargs");
        buf_append_slice(&b, buf_slice(&sentinel));
    }
    bool any = b.len > empty;

    buf_append_char(&b, '}');
    if (buf_ok(&sentinel) || buf_ok(&b))
        return -ENOMEM;
    return any ? strv_add(env, b.data) : 0;
}

static int find_databases(struct keepers *all, const struct keeper_options *o)
{
    CLEANUP(buf_deinit) struct buf broker = BUF_INIT;
    int r = 0;

    buf_appendf(&broker, "CELERY_BROKER_URL=%s", o->broker);
    if (buf_ok(&broker))
        return -ENOMEM;
    r = strv_add(&all->env, broker.data);
    if (!r)
        r = add_broker_options(&all->env, o->options);
    for (size_t i = 0; !r && i < o->databases->n; i++) {
        const char *text = o->databases->v[i], *eq = strchr(text, '=');

        r = add_variable(&all->env, text, (size_t)(eq - text), eq + 1);
        if (!r)
            r = add_keeper(all, text, (size_t)(eq - text));
    }
    return r ? r : from_environment(all);
}

/* ---- life ---- */

static void on_again(uv_timer_t *t)
{
    struct keepers *all = t->data;

    for (size_t i = 0; i < all->n; i++)
        if (&all->k[i].again == t)
            start(&all->k[i]);
}

static void on_exit_keeper(uv_process_t *p, int64_t status, int signum)
{
    struct keeper *k = NULL;
    struct keepers *all = p->data;

    for (size_t i = 0; i < all->n; i++)
        if (&all->k[i].process == p)
            k = &all->k[i];
    uv_close((uv_handle_t *)p, NULL);
    if (!k || all->stopping)
        return;
    k->alive = false;
    log_warning("the sweep of database %s ended (status %d, signal %d) and starts again", k->alias,
                (int)status, signum);
    (void)uv_timer_start(&k->again, on_again, RESTART_MS, 0);
}

static void start(struct keeper *k)
{
    struct keepers *all = k->all;
    const char *const argv[] = {
        all->program,    "sweep",   "--database", k->alias,     "--every",
        all->seconds,    "--after", all->seconds, "--attached", "--global-keyprefix",
        all->key_prefix, NULL};
    CLEANUP(mem_free) char **env = NULL;
    size_t n_env = 0, n = 0;

    while (environ[n_env])
        n_env++;
    env = calloc(all->env.n + n_env + 1, sizeof(*env));
    if (!env || all->stopping)
        return;
    for (size_t i = 0; i < all->env.n; i++)
        env[n++] = all->env.v[i];
    for (size_t i = 0; i < n_env; i++)
        env[n++] = environ[i];
    uv_stdio_container_t stdio[] = {{.flags = UV_IGNORE},
                                    {.flags = UV_IGNORE},
                                    {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO}};
    const uv_process_options_t options = {.exit_cb = on_exit_keeper,
                                          .file = all->program,
                                          .args = (char **)argv,
                                          .env = env,
                                          .stdio = stdio,
                                          .stdio_count = ARRAY_SIZE(stdio)};

    k->process.data = all;
    int r = uv_spawn(all->loop, &k->process, &options);

    k->alive = r == 0;
    if (r == 0)
        return;
    log_warning("cannot start %s: %s", all->program, uv_strerror(r));
    uv_close((uv_handle_t *)&k->process, NULL);
}

static int prepare(struct keepers *all, const struct keeper_options *o, int seconds)
{
    char text[24];

    (void)snprintf(text, sizeof(text), "%d", seconds);
    all->seconds = slice_dup(slice_str(text));
    all->key_prefix = slice_dup(slice_str(o->key_prefix ? o->key_prefix : ""));
    all->program = find_program();
    if (!all->seconds || !all->key_prefix)
        return -ENOMEM;
    int r = find_databases(all, o);

    if (!r && all->n && !all->program)
        log_warning("there is no " PROGRAM " beside this program: this worker finds no lost "
                    "messages, let a cron job run " PROGRAM " sweep");
    return r;
}

int keepers_start(uv_loop_t *loop, const struct keeper_options *o, struct keepers **ret_k)
{
    int seconds = seconds_between();
    struct keepers *all = seconds ? calloc(1, sizeof(*all)) : NULL;

    if (!all)
        return seconds ? -ENOMEM : 0;
    all->loop = loop;
    *ret_k = all;
    int r = prepare(all, o, seconds);

    for (size_t i = 0; !r && all->program && i < all->n; i++) {
        r = uv_timer_init(loop, &all->k[i].again);
        all->k[i].again.data = all;
        if (!r)
            start(&all->k[i]);
    }
    return r;
}

void keepers_stop(struct keepers *all)
{
    if (!all)
        return;
    all->stopping = true;
    for (size_t i = 0; i < all->n; i++)
        if (all->k[i].alive)
            (void)uv_process_kill(&all->k[i].process, SIGTERM);
}

struct keepers *keepers_free(struct keepers *all)
{
    if (!all)
        return NULL;
    for (size_t i = 0; i < all->n; i++)
        free(all->k[i].alias);
    free(all->program);
    free(all->seconds);
    free(all->key_prefix);
    strv_deinit(&all->env);
    free(all);
    return NULL;
}
