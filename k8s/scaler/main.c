/* SPDX-License-Identifier: Apache-2.0 */
/* scatter-scale: parses the command line and runs once, or again and again.
 *
 * --loop waits in sigtimedwait, so that TERM and INT, which are blocked, end it between two runs with its Leases given
 * up. Results go to standard output, everything else to standard error; run.h has the exit codes. */

#include "k8s/scaler/completion.h"
#include "k8s/scaler/http.h"
#include "k8s/scaler/replay.h"
#include "k8s/scaler/run.h"

#include "celeryc/base/clock.h"

#include <signal.h>
#include <time.h>

static int failed(const char *text, int code)
{
    (void)fprintf(stderr, "scatter-scale: %s\n", text);
    return code;
}

static int print(const struct buf *text)
{
    if (buf_ok(text))
        return failed("out of memory", EXIT_DEFECT);
    return fwrite(text->data, 1, text->len, stdout) == text->len && fflush(stdout) == 0
               ? EXIT_DONE
               : failed("standard output cannot be written", EXIT_UNREACHABLE);
}

/* ---- running ---- */

static void publish(struct scaler *s, struct http *http, int64_t alive_until_ns)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    struct err e = ERR_INIT;

    if (!http && !s->o->textfile)
        return;
    metrics_write(&text, &s->metrics, s->c);
    if (buf_ok(&text))
        return;
    if (http)
        http_publish(http, buf_slice(&text), alive_until_ns);
    if (s->o->textfile && metrics_save(s->o->textfile, buf_slice(&text), &e))
        (void)failed(e.text, 0);
}

static double interval_of(const struct scaler *s)
{
    int64_t shortest = s->c->targets[0].rules.period_s;

    if (s->o->interval_s.set)
        return s->o->interval_s.v;
    for (size_t i = 1; i < s->c->n_targets; i++)
        shortest = MIN(shortest, s->c->targets[i].rules.period_s);
    return (double)shortest;
}

/* True: a signal asked for the end. */
static bool wait_until_ns(const sigset_t *signals, int64_t until_ns)
{
    int64_t left_ns = MAX(until_ns - clock_mono_ns(), 0);
    const struct timespec t = {left_ns / NS_PER_S, left_ns % NS_PER_S};

    return sigtimedwait(signals, NULL, &t) > 0;
}

static int loop(struct scaler *s)
{
    CLEANUP(http_stop) struct http *http = NULL;
    int64_t interval_ns = (int64_t)(interval_of(s) * (double)NS_PER_S), next_ns = clock_mono_ns();
    int64_t deadline_ns =
        (int64_t)((s->o->deadline_s.set ? s->o->deadline_s.v : 50) * (double)NS_PER_S);
    struct err e = ERR_INIT;
    sigset_t signals;

    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGTERM);
    (void)sigaddset(&signals, SIGINT);
    (void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (s->o->listen && http_start(s->o->listen, &http, &e))
        return failed(e.text, EXIT_CONFIG);
    do {
        (void)scaler_run(s);
        next_ns = MAX(next_ns + interval_ns, clock_mono_ns());
        publish(s, http, next_ns + 2 * interval_ns + deadline_ns);
    } while (!wait_until_ns(&signals, next_ns));
    scaler_give_up(s);
    return EXIT_DONE;
}

static int run(const struct options *o)
{
    CLEANUP(config_deinit) struct config c = {0};
    struct scaler s = {0};
    struct err e = ERR_INIT;
    int code = EXIT_DEFECT;

    if (config_load(o, &c, &e))
        return failed(e.text[0] ? e.text : "out of memory", EXIT_CONFIG);
    if (scaler_init(&s, o, &c)) {
        (void)failed("out of memory", code);
    } else if (o->check) {
        code = scaler_check(&s, stdout);
    } else if (o->loop) {
        code = loop(&s);
    } else {
        code = scaler_run(&s);
        publish(&s, NULL, 0);
    }
    scaler_deinit(&s);
    return code;
}

static int replay_file(const char *path)
{
    struct err e = ERR_INIT;
    int r = replay(path, stdout, &e);

    return r ? failed(err_text(&e, r), r == REPLAY_E_DIFFERS ? 1 : EXIT_CONFIG) : EXIT_DONE;
}

static int dispatch(const struct options *o)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;

    if (o->version) {
        buf_append_str(&text, "scatter-scale " SCATTER_VERSION "\n");
        return print(&text);
    }
    if (o->completion) {
        completion_write(&text, o->completion);
        return print(&text);
    }
    return o->replay ? replay_file(o->replay) : run(o);
}

int main(int argc, char **argv)
{
    CLEANUP(buf_deinit) struct buf help = BUF_INIT;
    struct options o = {0};
    struct err e = ERR_INIT;
    int r;

    if (opt_wants_help(argc - 1, argv + 1)) {
        options_write_help(&help);
        return print(&help);
    }
    r = options_read(&o, argc, argv, &e);
    r = r ? failed(err_text(&e, r), EXIT_CONFIG) : dispatch(&o);
    options_clear(&o);
    return r;
}
