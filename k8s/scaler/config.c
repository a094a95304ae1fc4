/* SPDX-License-Identifier: Apache-2.0 */
/* The file, what the command line changes in it, and the check that all of it fits together.
 *
 * {"redis": {"url_env": "REDIS_URL"},
 *  "targets": [{"deployment": "worker", "queues": ["celery"], "concurrency": 2, "max": 20}]} */

#include "k8s/scaler/config.h"

#include "celeryc/base/limits.h"
#include "celeryc/redis/endpoint.h"

#include <errno.h>

#define AT(field) offsetof(struct config, field)
#define TEXT(name, field)                             \
    {                                                 \
        name, FIELD_TEXT, AT(field), 0, 0, NULL, NULL \
    }
#define NUMBER(name, field, low, high)                    \
    {                                                     \
        name, FIELD_INT, AT(field), low, high, NULL, NULL \
    }

static const struct field redis_fields[] = {
    TEXT("url", redis_url),
    TEXT("url_env", redis_url_env),
    TEXT("url_file", redis_url_file),
    TEXT("global_keyprefix", key_prefix),
    TEXT("sep", sep),
    {"celeryc", FIELD_BOOL, AT(keys.celeryc), 0, 0, NULL, NULL},
    NUMBER("scan_limit", keys.scan_limit, 1, 100000),
    NUMBER("wake_lead_s", keys.wake_lead_s, 0, 86400),
    {"heartbeat_s", FIELD_NUM, AT(heartbeat_s), 0.1, 60, NULL, NULL},
    {0},
};

static const struct field kubernetes_fields[] = {
    TEXT("namespace", namespace),
    TEXT("kubeconfig", kubeconfig),
    TEXT("context", context),
    {0},
};
#undef AT

#define AT(field) offsetof(struct target, field)

/* clang-format off */
const struct field target_fields[] = {
    TEXT("deployment", deployment),
    {"queues", FIELD_LIST, AT(queues), 1, LIMIT_SCALER_QUEUES, NULL, NULL},
    TEXT("lease", lease),
    {"pod_costs", FIELD_BOOL, AT(pod_costs), 0, 0, NULL, NULL},
    {"heartbeats", FIELD_BOOL, AT(heartbeats), 0, 0, NULL, NULL},
    NUMBER("start_grace_s", start_grace_s, 0, 86400),
    {"short_task_s", FIELD_NUM, AT(short_task_s), 0, 86400, NULL, NULL},
    {"avg_task_s", FIELD_NUM, AT(avg_task_s), 0, 604800, NULL, NULL},
    TEXT("plans_url", plans_url),
    TEXT("plans_url_env", plans_url_env),
    {"plan_rate", FIELD_NUM, AT(plan_rate), 0, FIELD_COUNT_MAX, NULL, NULL},
    {"plan_drain_s", FIELD_NUM, AT(plan_drain_s), 0, 31536000, NULL, NULL},
    {0},
};

/* clang-format on */

void config_deinit(struct config *c)
{
    fields_clear(redis_fields, c);
    fields_clear(kubernetes_fields, c);
    for (size_t i = 0; i < c->n_targets; i++)
        fields_clear(target_fields, &c->targets[i]);
    free(c->targets);
    *c = (struct config){0};
}

static void config_init(struct config *c)
{
    *c = (struct config){.heartbeat_s = 5};
    load_keys_default(&c->keys);
}

/* ---- the file ---- */

static struct target *add_target(struct config *c)
{
    struct target *v = reallocarray(c->targets, c->n_targets + 1, sizeof(*v));

    if (!v)
        return NULL;
    c->targets = v;
    v += c->n_targets++;
    *v = (struct target){
        .heartbeats = true, .start_grace_s = 60, .short_task_s = 15, .plan_drain_s = 3600};
    decide_rules_default(&v->rules);
    return v;
}

static int read_target(struct config *c, struct arena *a, struct json_val v, struct err *e)
{
    struct target *t = add_target(c);
    struct json_iter it;
    int r = t ? 0 : -ENOMEM;

    if (v.kind != JSON_K_OBJECT)
        return err_set(e, -EINVAL, "a target is an object {\"deployment\": ...}");
    for (json_iter_init(&it, v); r == 0 && json_next(&it);) {
        const struct field *f;
        struct slice name;

        r = json_string(a, it.key, &name);
        if (r)
            return r;
        f = field_find(target_fields, name);
        if (f)
            r = field_set(f, t, it.val, e);
        else if ((f = field_find(rule_fields, name)))
            r = field_set(f, &t->rules, it.val, e);
        else
            r = err_set(e, -EINVAL, "\"%.*s\" is not known (scatter-scale --help lists the rules)",
                        (int)MIN(name.len, 80), name.p);
    }
    return r && t->deployment ? err_prefix(e, r, "target \"%s\"", t->deployment) : r;
}

static int read_targets(struct config *c, struct arena *a, struct json_val v, struct err *e)
{
    struct json_iter it;
    int r = 0;

    if (v.kind != JSON_K_ARRAY || json_len(v) > LIMIT_SCALER_TARGETS)
        return err_set(e, -EINVAL, "\"targets\" is no list of at most %d", LIMIT_SCALER_TARGETS);
    for (json_iter_init(&it, v); r == 0 && json_next(&it);)
        r = read_target(c, a, it.val, e);
    return r;
}

/* Steps of priority, rising, as in broker_transport_options. */
static int read_steps(struct load_keys *k, struct json_val v, struct err *e)
{
    struct json_iter it;
    int64_t step, last = -1;

    k->n_steps = 0;
    for (json_iter_init(&it, v); json_next(&it); last = step) {
        if (json_i64(it.val, &step) || step <= last || step > 9)
            return err_set(e, -EINVAL, "\"priority_steps\": rising numbers from 0 to 9 are meant");
        k->steps[k->n_steps++] = (int)step;
    }
    return k->n_steps ? 0 : err_set(e, -EINVAL, "\"priority_steps\" is no list of numbers");
}

static int read_redis(struct config *c, struct arena *a, struct json_val v, struct err *e)
{
    struct json_iter it;
    int r = 0;

    if (v.kind != JSON_K_OBJECT)
        return err_set(e, -EINVAL, "\"redis\" is no object");
    for (json_iter_init(&it, v); r == 0 && json_next(&it);) {
        const struct field *f;
        struct slice name;

        r = json_string(a, it.key, &name);
        if (r)
            return r;
        f = field_find(redis_fields, name);
        if (f)
            r = field_set(f, c, it.val, e);
        else if (slice_eq_str(name, "priority_steps"))
            r = read_steps(&c->keys, it.val, e);
        else
            r = err_set(e, -EINVAL, "\"%.*s\" is not known", (int)MIN(name.len, 80), name.p);
    }
    return r ? err_prefix(e, r, "\"redis\"") : 0;
}

int config_parse(struct slice text, struct config *c, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct json_val v;
    struct json_iter it;
    int r = a ? json_scan(text, &v, e) : -ENOMEM;

    if (r)
        return r == -ENOMEM ? r : -EINVAL;
    if (v.kind != JSON_K_OBJECT)
        return err_set(e, -EINVAL, "no JSON object");
    for (json_iter_init(&it, v); r == 0 && json_next(&it);) {
        struct slice name = {it.key.raw.p + 1, it.key.raw.len - 2};

        if (slice_eq_str(name, "redis"))
            r = read_redis(c, a, it.val, e);
        else if (slice_eq_str(name, "kubernetes"))
            r = fields_read(kubernetes_fields, c, it.val, e);
        else if (slice_eq_str(name, "targets"))
            r = read_targets(c, a, it.val, e);
        else
            r = err_set(e, -EINVAL, "\"%.*s\" is not known", (int)MIN(name.len, 80), name.p);
    }
    return r;
}

static int read_file(const char *path, struct buf *dst, struct err *e)
{
    FILE *f = fopen(path, "re");
    char piece[4096];
    size_t n;

    if (!f)
        return err_set(e, -errno, "%s: %s", path, err_errno(errno));
    while ((n = fread(piece, 1, sizeof(piece), f)) > 0 && dst->len <= LIMIT_CONFIG_BYTES)
        buf_append(dst, piece, n);
    int failed = ferror(f) ? errno : 0;
    (void)fclose(f);
    if (failed)
        return err_set(e, -failed, "%s: %s", path, err_errno(failed));
    if (dst->len > LIMIT_CONFIG_BYTES)
        return err_set(e, -EINVAL, "%s: longer than %u bytes", path, LIMIT_CONFIG_BYTES);
    return buf_ok(dst);
}

/* ---- options and environment ---- */

static int put_text(char **at, const char *value)
{
    char *copy;

    if (!value)
        return 0;
    copy = strdup(value);
    if (!copy)
        return -ENOMEM;
    free(*at);
    *at = copy;
    return 0;
}

static int apply_texts(const struct options *o, struct config *c)
{
    char **const at[] = {&c->redis_url, &c->key_prefix, &c->namespace, &c->kubeconfig, &c->context};
    const char *const value[] = {o->broker, o->key_prefix, o->namespace, o->kubeconfig, o->context};
    int r = 0;

    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(at); i++)
        r = put_text(at[i], value[i]);
    return r;
}

/* --deployment names one of the file's targets, or the only one when there is no file. */
static int select_target(const struct options *o, struct config *c, struct err *e)
{
    size_t n = 0;

    if (!o->deployment)
        return 0;
    if (c->n_targets == 0) {
        struct target *t = add_target(c);

        return t ? put_text(&t->deployment, o->deployment) : -ENOMEM;
    }
    for (size_t i = 0; i < c->n_targets; i++) {
        if (str_eq(c->targets[i].deployment, o->deployment))
            c->targets[n++] = c->targets[i];
        else
            fields_clear(target_fields, &c->targets[i]);
    }
    c->n_targets = n;
    return n ? 0
             : err_set(e, -EINVAL, "--deployment %s: the file has no such target", o->deployment);
}

static int apply_rule(struct target *t, const char *text, struct err *e)
{
    const char *eq = strchr(text, '=');

    if (!eq)
        return err_set(e, -EINVAL, "--set %s: RULE=VALUE is meant", text);
    int r = rules_set(&t->rules, (struct slice){text, (size_t)(eq - text)}, slice_str(eq + 1), e);
    return r ? err_prefix(e, r, "--set") : 0;
}

static int complete_target(const struct options *o, struct target *t, struct err *e)
{
    int r = 0;

    if (!t->deployment)
        return err_set(e, -EINVAL, "a target has no \"deployment\"");
    if (o->queues.n || t->queues.n == 0) {
        strv_deinit(&t->queues);
        for (size_t i = 0; r == 0 && i < o->queues.n; i++)
            r = strv_add(&t->queues, o->queues.v[i]);
        if (r == 0 && t->queues.n == 0)
            r = strv_add(&t->queues, "celery");
    }
    if (r == 0 && o->lease)
        r = put_text(&t->lease, o->lease);
    if (r == 0 && !t->lease && asprintf(&t->lease, "scatter-scale-%s", t->deployment) < 0) {
        t->lease = NULL;
        r = -ENOMEM;
    }
    t->pod_costs = t->pod_costs || o->pod_costs;
    t->heartbeats = t->heartbeats && !o->without_heartbeat;
    for (size_t i = 0; r == 0 && i < o->set.n; i++)
        r = apply_rule(t, o->set.v[i], e);
    if (r == 0)
        r = rules_check(&t->rules, e);
    if (r == 0 && (t->plans_url || t->plans_url_env) && t->plan_rate <= 0)
        r = err_set(e, -EINVAL,
                    "plans need plan_rate: how many records does a pod finish in a second?");
    return r ? err_prefix(e, r, "target \"%s\"", t->deployment) : 0;
}

static int check_targets(const struct config *c, struct err *e)
{
    if (c->n_targets == 0)
        return err_set(e, -EINVAL,
                       "nothing to scale: give --deployment, or --config with \"targets\"");
    for (size_t i = 0; i < c->n_targets; i++)
        for (size_t j = 0; j < i; j++) {
            if (str_eq(c->targets[i].deployment, c->targets[j].deployment))
                return err_set(e, -EINVAL, "target \"%s\" stands there twice",
                               c->targets[i].deployment);
            if (str_eq(c->targets[i].lease, c->targets[j].lease))
                return err_set(e, -EINVAL, "targets \"%s\" and \"%s\" have the same lease",
                               c->targets[i].deployment, c->targets[j].deployment);
        }
    return 0;
}

static int complete(const struct options *o, struct config *c, struct err *e)
{
    CLEANUP(mem_free) char *url = NULL;
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    int r = apply_texts(o, c);

    if (r == 0)
        r = select_target(o, c, e);
    for (size_t i = 0; r == 0 && i < c->n_targets; i++)
        r = complete_target(o, &c->targets[i], e);
    c->keys.prefix = c->key_prefix ? c->key_prefix : "";
    if (c->sep)
        c->keys.sep = c->sep;
    if (r == 0)
        r = check_targets(c, e);
    if (r == 0)
        r = config_redis_url(c, &url, e);
    if (r == 0)
        r = redis_endpoint_parse(url, &ep, e);
    return r;
}

int config_load(const struct options *o, struct config *ret_c, struct err *e)
{
    CLEANUP(config_deinit) struct config c;
    int r = 0;

    config_init(&c);
    if (o->config) {
        CLEANUP(buf_deinit) struct buf text = BUF_INIT;

        r = read_file(o->config, &text, e);
        if (r)
            return r;
        r = config_parse(buf_slice(&text), &c, e);
        if (r)
            return err_prefix(e, r, "%s", o->config);
    }
    r = complete(o, &c, e);
    if (r)
        return r;
    *ret_c = c;
    c = (struct config){0};
    return 0;
}

static int url_of_file(const char *path, char **ret_url, struct err *e)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    int r = read_file(path, &text, e);

    if (r)
        return r;
    while (text.len && strchr(" \t\r\n", text.data[text.len - 1]))
        text.len--;
    *ret_url = slice_dup(buf_slice(&text));
    return *ret_url ? 0 : -ENOMEM;
}

int config_redis_url(const struct config *c, char **ret_url, struct err *e)
{
    const char *url = c->redis_url;

    if (!url && c->redis_url_file)
        return url_of_file(c->redis_url_file, ret_url, e);
    if (!url && c->redis_url_env) {
        url = opt_env(c->redis_url_env);
        if (!url)
            return err_set(e, -EINVAL, "the variable %s is not set (\"redis\": \"url_env\")",
                           c->redis_url_env);
    }
    if (!url)
        url = opt_env("CELERY_BROKER_URL");
    if (!url)
        return err_set(e, -EINVAL,
                       "no broker: give \"redis\": {\"url_env\": ...} in the file, or "
                       "CELERY_BROKER_URL, or --broker");
    *ret_url = strdup(url);
    return *ret_url ? 0 : -ENOMEM;
}
