/* SPDX-License-Identifier: Apache-2.0 */
/* The Kubernetes client as a program, for the tests in interop_tests/kube: one command a line on standard input, one
 * JSON object a line on standard output. Options come as NAME=VALUE on the command line. */

#include "celeryc/base/clock.h"
#include "celeryc/base/num.h"
#include "celeryc/message/json.h"
#include "k8s/scaler/kube.h"

#include <errno.h>

#define WORDS 8

struct probe {
    struct kube *k;
    int64_t deadline_ms;
    struct kube_target target; /* read last */
    struct buf out;
};

static void put(struct probe *p, const char *key, const char *text)
{
    buf_appendf(&p->out, ", \"%s\": ", key);
    json_write_string_or_null(&p->out, slice_str(text));
}

static void put_n(struct probe *p, const char *key, int64_t n)
{
    buf_appendf(&p->out, ", \"%s\": %lld", key, (long long)n);
}

static int64_t number(const char *text)
{
    int64_t n = 0;

    if (!text || num_parse_i64(slice_str(text), &n)) {
        (void)fprintf(stderr, "no number: %s\n", text ? text : "");
        exit(64); /* NOLINT(concurrency-mt-unsafe) */
    }
    return n;
}

static int do_target(struct probe *p, char **w, struct err *e)
{
    int code;

    kube_target_deinit(&p->target);
    code = kube_target_read(p->k, w[1], &p->target, e);
    if (code)
        return code;
    put_n(p, "replicas", p->target.replicas);
    put_n(p, "generation", p->target.generation);
    put_n(p, "observed", p->target.observed_generation);
    put_n(p, "status", p->target.status_replicas);
    put_n(p, "updated", p->target.updated_replicas);
    put(p, "version", p->target.resource_version);
    put(p, "selector", p->target.selector);
    put(p, "paused", p->target.paused);
    put(p, "paused_replicas", p->target.paused_replicas);
    return 0;
}

static int do_pods(struct probe *p, char **w, struct err *e)
{
    CLEANUP(kube_pods_deinit) struct kube_pods pods = {0};
    int code = kube_pods_read(p->k, w[1], &pods, e);

    if (code)
        return code;
    buf_append_str(&p->out, ", \"pods\": [");
    for (size_t i = 0; i < pods.n; i++) {
        const struct kube_pod *pod = &pods.v[i];

        buf_appendf(&p->out,
                    "%s{\"name\": \"%s\", \"deleting\": %s, \"ended\": %s, \"ready\": %s, "
                    "\"started\": %lld, \"cost\": ",
                    i ? ", " : "", pod->name, pod->deleting ? "true" : "false",
                    pod->ended ? "true" : "false", pod->ready ? "true" : "false",
                    (long long)pod->started_us);
        if (pod->has_cost)
            buf_appendf(&p->out, "%d}", pod->cost);
        else
            buf_append_str(&p->out, "null}");
    }
    buf_append_char(&p->out, ']');
    return 0;
}

static int do_rival(struct probe *p, char **w, struct err *e)
{
    CLEANUP(mem_free) char *rival = NULL;
    int code = kube_rival_read(p->k, w[1], &rival, e);

    if (!code)
        put(p, "rival", rival);
    return code;
}

static enum kube_write how(const char *word)
{
    return str_eq(word, "dry") ? KUBE_DRY_RUN : KUBE_WRITE;
}

static int do_scale(struct probe *p, char **w, struct err *e)
{
    return kube_scale_set(p->k, w[1], &p->target, number(w[2]), how(w[3]), e);
}

static int do_cost(struct probe *p, char **w, struct err *e)
{
    return kube_pod_cost_set(p->k, w[1], (int32_t)number(w[2]), how(w[3]), e);
}

static int do_take(struct probe *p, char **w, struct err *e)
{
    CLEANUP(mem_free) char *state = NULL;
    int code = kube_lease_take(p->k, w[1], w[2], number(w[3]), &state, e);

    if (!code)
        put(p, "state", state);
    return code;
}

static int do_put(struct probe *p, char **w, struct err *e)
{
    return kube_lease_put(p->k, w[1], str_eq(w[2], "-") ? NULL : w[2], str_eq(w[3], "keep"), e);
}

static int do_peek(struct probe *p, char **w, struct err *e)
{
    CLEANUP(mem_free) char *state = NULL;
    int code = kube_lease_peek(p->k, w[1], &state, e);

    if (!code)
        put(p, "state", state);
    return code;
}

/* may VERB GROUP|- RESOURCE SUBRESOURCE|- NAME|- */
static int do_may(struct probe *p, char **w, struct err *e)
{
    struct kube_right r = {.verb = w[1]};
    bool allowed = false;
    int code;

    for (int i = 2; i <= 5; i++) {
        if (w[i] && str_eq(w[i], "-"))
            w[i] = NULL;
    }
    r.group = w[2];
    r.resource = w[3];
    r.subresource = w[4];
    r.name = w[5];
    code = kube_may(p->k, &r, &allowed, e);
    if (!code)
        buf_appendf(&p->out, ", \"allowed\": %s", allowed ? "true" : "false");
    return code;
}

static int do_event(struct probe *p, char **w, struct err *e)
{
    return kube_event(p->k, w[1], w[2], w[3], e);
}

static int do_now(struct probe *p, char **w, struct err *e)
{
    (void)w;
    (void)e;
    put_n(p, "now", kube_now_us(p->k));
    put(p, "server", kube_server(p->k));
    put(p, "namespace", kube_namespace(p->k));
    return 0;
}

static int run(struct probe *p, char *line, struct err *e)
{
    static const struct {
        const char *name;
        int n_words;
        int (*fn)(struct probe *, char **, struct err *);
    } commands[] = {
        {"target", 2, do_target}, {"pods", 2, do_pods}, {"rival", 2, do_rival},
        {"scale", 3, do_scale},   {"cost", 3, do_cost}, {"take", 4, do_take},
        {"put", 3, do_put},       {"peek", 2, do_peek}, {"may", 4, do_may},
        {"event", 4, do_event},   {"now", 1, do_now},
    };

    char *w[WORDS] = {0}, *rest = line;
    int n = 0;

    while (n < WORDS && (w[n] = strsep(&rest, " \n")) && *w[n])
        n++;
    if (n < WORDS)
        w[n] = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (n && str_eq(w[0], commands[i].name) && n >= commands[i].n_words)
            return commands[i].fn(p, w, e);
    }
    return err_set(e, -EINVAL, "no such command: %s", n ? w[0] : "");
}

static void answer(struct probe *p, int code, struct err *e)
{
    CLEANUP(buf_deinit) struct buf line = BUF_INIT;

    buf_appendf(&line, "{\"code\": %d, \"error\": ", code);
    json_write_string(&line, slice_str(code ? err_text(e, code) : ""));
    buf_append_slice(&line, buf_slice(&p->out));
    buf_append_str(&line, "}\n");
    ASSERT(buf_ok(&line) == 0);
    (void)fwrite(line.data, 1, line.len, stdout);
    (void)fflush(stdout);
    buf_reset(&p->out);
}

static const char *option(char **argv, const char *name)
{
    size_t n = strlen(name);

    for (; *argv; argv++) {
        if (strncmp(*argv, name, n) == 0 && (*argv)[n] == '=')
            return *argv + n + 1;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct kube_options o = {
        .kubeconfig = option(argv, "kubeconfig"),
        .context = option(argv, "context"),
        .namespace = option(argv, "namespace"),
        .service_account = option(argv, "service_account"),
        .use_proxy = option(argv, "use_proxy") != NULL,
    };
    const char *deadline = option(argv, "deadline_ms");
    CLEANUP(mem_free) char *line = NULL;
    struct probe p = {.deadline_ms = deadline ? number(deadline) : 20000, .out = BUF_INIT};
    struct err e = ERR_INIT;
    size_t size = 0;
    int code = kube_open(&o, &p.k, &e);

    (void)argc;
    answer(&p, code, &e);
    while (!code && getline(&line, &size, stdin) > 0) {
        struct err now = ERR_INIT;

        kube_set_deadline(p.k, clock_mono_ns() + p.deadline_ms * NS_PER_MS);
        answer(&p, run(&p, line, &now), &now);
    }
    kube_target_deinit(&p.target);
    buf_deinit(&p.out);
    kube_close(p.k);
    return 0;
}
