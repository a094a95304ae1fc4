/* SPDX-License-Identifier: Apache-2.0 */
/* Drains N messages with claim, start and finish (result record and PUBLISH included) through the transport alone, as
 * fast as the loop goes, and prints tasks/s and the server's CPU per task.
 *
 *   bench_drain [messages] [slots] [early|late] */
#include <stdio.h>
#include <string.h>

#include "celeryc/base/clock.h"
#include "celeryc/base/num.h"
#include "celeryc/transport/transport.h"
#include "tests/redis/redis_server.h"

struct bench {
    uv_loop_t loop;
    struct transport *t;
    size_t total, done, slots, busy;
    bool early;
};

static const char raw[] =
    "{\"body\": \"W1sxLCAyXSwge30sIHsiY2FsbGJhY2tzIjogbnVsbCwgImVycmJhY2tzIjogbnVsbCwgImNoYWluIjog"
    "bnVsbCwgImNob3JkIjogbnVsbH1d\", \"content-encoding\": \"utf-8\", \"content-type\": "
    "\"application/json\", \"headers\": {\"lang\": \"py\", \"task\": \"examples.add\", \"id\": "
    "\"3f3a1f0e-6c0b-4f0e-9f0e-6c0b4f0e9f0e\", \"shadow\": null, \"eta\": null, \"expires\": null, "
    "\"group\": null, \"group_index\": null, \"retries\": 0, \"timelimit\": [null, null], "
    "\"root_id\": \"3f3a1f0e-6c0b-4f0e-9f0e-6c0b4f0e9f0e\", \"parent_id\": null, \"argsrepr\": "
    "\"(1, 2)\", \"kwargsrepr\": \"{}\", \"origin\": \"gen1@host\", \"ignore_result\": false}, "
    "\"properties\": {\"correlation_id\": \"3f3a1f0e-6c0b-4f0e-9f0e-6c0b4f0e9f0e\", \"reply_to\": "
    "\"3f3a1f0e-6c0b-4f0e-9f0e-6c0b4f0e9f0f\", \"delivery_mode\": 2, \"delivery_info\": "
    "{\"exchange\": \"\", \"routing_key\": \"celery\"}, \"priority\": 0, \"body_encoding\": "
    "\"base64\", \"delivery_tag\": \"3f3a1f0e-6c0b-4f0e-9f0e-6c0b4f0e9f00\"}}";

struct job {
    struct bench *b;
    struct claim *c;
};

static void on_finished(enum transport_done done, void *arg)
{
    struct job *j = arg;
    struct bench *b = j->b;
    ASSERT(done == TRANSPORT_DONE);
    claim_free(j->c);
    free(j);
    b->done++;
    b->busy--;
    transport_want(b->t, b->slots - b->busy);
    if (b->done == b->total)
        uv_stop(&b->loop);
}

static void finish(struct job *j)
{
    char key[64], value[400];
    int n = snprintf(key, sizeof(key), "celery-task-meta-%s", j->c->field);
    int m = snprintf(value, sizeof(value),
                     "{\"status\": \"SUCCESS\", \"result\": 3, \"traceback\": null, \"children\": "
                     "[], \"date_done\": \"2026-11-23T04:00:00.000000+00:00\", \"task_id\": "
                     "\"3f3a1f0e-6c0b-4f0e-9f0e-6c0b4f0e9f0e\"}");
    struct transport_record r = {{key, (size_t)n}, {value, (size_t)m}, 86400};
    transport_finish(j->b->t, j->c, &r, 0, NULL, on_finished, j);
}

static void on_started(enum transport_done done, void *arg)
{
    struct job *j = arg;
    ASSERT(done == TRANSPORT_DONE);
    j->c->started = true;
    finish(j);
}

static void on_claim(struct claim *c, void *arg)
{
    struct bench *b = arg;
    struct job *j = calloc(1, sizeof(*j));
    ASSERT(j);
    *j = (struct job){b, c};
    b->busy++;
    transport_want(b->t, b->slots - b->busy);
    if (b->early)
        transport_start_claim(b->t, c, on_started, j);
    else
        finish(j);
}

static double server_cpu(const struct redis_server *s)
{
    char *info = redis_server_ask(s, "INFO", "cpu", NULL);
    double total = 0;
    for (const char *name = "used_cpu_sys:\0used_cpu_user:\0"; *name; name += strlen(name) + 1) {
        const char *p = strstr(info, name) + strlen(name);
        double v = 0;
        ASSERT(num_parse_f64((struct slice){p, strcspn(p, "\r")}, &v) == 0);
        total += v;
    }
    free(info);
    return total;
}

static void fill(const struct redis_server *s, size_t n)
{
    CLEANUP(redis_sync_close) struct redis_sync *c = NULL;
    struct err e = ERR_INIT;
    ASSERT(redis_sync_open(&s->endpoint, 5000, &c, &e) == 0);
    struct slice argv[] = {SLICE_LIT("LPUSH"), SLICE_LIT("celery"), {raw, sizeof(raw) - 1}};
    for (size_t i = 0; i < n; i++) {
        redis_sync_queue(c, 3, argv);
        if (i % 10000 == 9999)
            ASSERT(redis_sync_flush(c, &e) == 0);
    }
    ASSERT(redis_sync_flush(c, &e) == 0);
}

static void on_left(void *arg)
{
    struct bench *b = arg;
    transport_free(b->t);
}

static size_t number(const char *text, size_t fallback)
{
    uint32_t v = 0;
    return text && num_parse_u32(slice_str(text), &v) == 0 && v ? v : fallback;
}

int main(int argc, char **argv)
{
    struct redis_server s;
    struct bench b = {.total = number(argc > 1 ? argv[1] : NULL, 100000),
                      .slots = number(argc > 2 ? argv[2] : NULL, 50),
                      .early = argc <= 3 || strcmp(argv[3], "early") == 0};
    redis_server_start(&s, NULL);
    fill(&s, b.total);
    double cpu = server_cpu(&s);
    ASSERT(uv_loop_init(&b.loop) == 0);
    const char *queues[] = {"celery", NULL};
    struct transport_options o = {
        .endpoint = &s.endpoint, .node = "bench@host", .key_prefix = "", .queues = queues};
    struct transport_events ev = {.on_claim = on_claim};
    b.t = transport_new(&b.loop, &o, &ev, &b);
    ASSERT(b.t);
    transport_want(b.t, b.slots);
    int64_t t0 = clock_mono_ns();
    transport_start(b.t);
    (void)uv_run(&b.loop, UV_RUN_DEFAULT);
    double seconds = (double)(clock_mono_ns() - t0) / 1e9;
    cpu = server_cpu(&s) - cpu;
    (void)printf("%s ack, %zu slots: %.0f tasks/s, Redis %.1f us/task\n",
                 b.early ? "early" : "late", b.slots, (double)b.total / seconds,
                 cpu / (double)b.total * 1e6);
    transport_leave(b.t, 2000, on_left, &b);
    (void)uv_run(&b.loop, UV_RUN_DEFAULT);
    ASSERT(uv_loop_close(&b.loop) == 0);
    redis_server_stop(&s);
    return 0;
}
