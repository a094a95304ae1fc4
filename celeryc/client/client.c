/* SPDX-License-Identifier: Apache-2.0 */
/* A program's way to the broker: settings, connections, and sending a canvas.
 *
 * What is applied is sent as a whole or not at all: chords are opened first, then one script pushes every message, once,
 * under a marker that makes it safe to repeat when the connection was lost before the answer came. */

#include "celeryc/client/client_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/canvas/canvas.h"
#include "celeryc/client/client.h"
#include "celeryc/result/result.h"
#include "celeryc/worker/config.h"
#include "celeryc/worker/queues.h"

#include <errno.h>
#include <time.h>

#define CONNECT_MS 4000
#define RETRY_MS   20000 /* without an answer of the server */
#define PAUSE_MS   100
#define MARK_S     "600" /* life of the marker of what was sent */

/* ---- the client ---- */

static int configure(struct celeryc_client *c, const char *broker, const char *backend,
                     bool environment, struct err *e)
{
    int r = config_broker(broker, &c->settings, &c->broker, e);
    if (r == 0 && (backend || environment || c->settings.result_backend))
        r = config_backend(backend, &c->settings, &c->backend, &c->has_backend, e);
    if (r == 0) {
        const struct wire_options wire = settings_wire(&c->settings);
        r = wire_new(&wire, &c->wire, e);
    }
    c->same_backend = r == 0 && c->has_backend && redis_endpoint_same(&c->broker, &c->backend);
    return r;
}

/* r: of making it so far. A mistake is kept for whoever wants to send. */
static struct celeryc_client *made(struct celeryc_client *c, int r, struct err *e)
{
    if (r == -ENOMEM) {
        celeryc_client_free(c);
        return NULL;
    }
    if (r) {
        (void)client_fail(c, r, e);
        c->broken = true;
    }
    return c;
}

struct celeryc_client *celeryc_client_new(const char *broker, const char *backend,
                                          const char *options)
{
    struct celeryc_client *c = calloc(1, sizeof(*c));
    struct err e = ERR_INIT;
    if (!c)
        return NULL;
    settings_init(&c->settings);
    int r = options ? settings_parse(&c->settings, slice_str(options), &e) : 0;
    if (r == 0)
        r = configure(c, broker, backend, false, &e);
    return made(c, r, &e);
}

struct celeryc_client *client_of_settings(struct settings *s_take, const char *broker,
                                          const char *backend)
{
    struct celeryc_client *c = calloc(1, sizeof(*c));
    struct err e = ERR_INIT;
    if (!c)
        return NULL;
    c->settings = *s_take;
    *s_take = (struct settings){.broker_url = NULL};
    return made(c, configure(c, broker, backend, true, &e), &e);
}

void celeryc_client_free(struct celeryc_client *c)
{
    if (!c)
        return;
    redis_sync_close(c->to_broker);
    redis_sync_close(c->to_backend);
    redis_endpoint_deinit(&c->broker);
    redis_endpoint_deinit(&c->backend);
    wire_free(c->wire);
    settings_deinit(&c->settings);
    free(c);
}

const char *celeryc_client_error(const struct celeryc_client *c)
{
    if (!c)
        return "out of memory";
    return c->error.text[0] ? c->error.text : NULL;
}

int client_fail(struct celeryc_client *c, int code, struct err *e)
{
    if (!c->broken)
        (void)snprintf(c->error.text, sizeof(c->error.text), "%s", err_text(e, code));
    return code;
}

bool client_has_backend(const struct celeryc_client *c)
{
    return c->has_backend;
}

const char *client_result_prefix(const struct celeryc_client *c)
{
    return c->settings.result_keyprefix ? c->settings.result_keyprefix : "";
}

/* ---- connections ---- */

struct attempts client_attempts(int64_t deadline_ns)
{
    return (struct attempts){clock_mono_ns(), deadline_ns};
}

bool client_again(const struct attempts *a, const struct redis_sync *s, int code)
{
    int64_t now = clock_mono_ns();
    if (!s || (code != -EIO && code != -ETIMEDOUT))
        return false;
    if (now - a->began_ns > RETRY_MS * NS_PER_MS || (a->deadline_ns && now >= a->deadline_ns))
        return false;
    (void)nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * NS_PER_MS}, NULL);
    return true;
}

static int connect_to(const struct redis_endpoint *ep, struct redis_sync **s, struct err *e)
{
    return *s ? 0 : redis_sync_open(ep, CONNECT_MS, s, e);
}

int client_backend(struct celeryc_client *c, struct redis_sync **ret_s, struct err *e)
{
    struct redis_sync **s = c->same_backend ? &c->to_broker : &c->to_backend;
    if (c->broken)
        return -EINVAL;
    if (!c->has_backend)
        return err_set(e, -EINVAL, "this client has no result backend");
    int r = connect_to(c->same_backend ? &c->broker : &c->backend, s, e);
    if (r == 0)
        *ret_s = *s;
    return r;
}

const struct redis_sync *client_backend_now(const struct celeryc_client *c)
{
    return c->same_backend ? c->to_broker : c->to_backend;
}

/* ---- opening chords ---- */

static void queue_set(struct redis_sync *s, struct slice key, struct slice value, int64_t ttl_s)
{
    char ttl[24];
    (void)snprintf(ttl, sizeof(ttl), "%lld", (long long)ttl_s);
    const struct slice argv[] = {SLICE_LIT("SET"), key, value, SLICE_LIT("EX"), slice_str(ttl)};
    redis_sync_queue(s, ttl_s > 0 ? 5 : 3, argv);
}

static int64_t chord_ttl(const struct settings *s)
{
    return (int64_t)(s->result_chord_expires >= 0 ? s->result_chord_expires : s->result_expires);
}

static int open_chord(struct celeryc_client *c, struct redis_sync *s, const struct canvas_start *at)
{
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    char size[24];
    result_group_key(&key, client_result_prefix(c), at->group_id);
    size_t len = key.len;
    (void)snprintf(size, sizeof(size), "%lld", (long long)at->size);
    if (at->saved.p && !key.failed)
        queue_set(s, buf_slice(&key), at->saved, chord_ttl(&c->settings));
    buf_append_str(&key, ".c");
    if (buf_ok(&key))
        return -ENOMEM;
    redis_sync_queue(s, 2, (const struct slice[]){SLICE_LIT("DEL"), buf_slice(&key)});
    key.data[len + 1] = 's';
    queue_set(s, buf_slice(&key), slice_str(size), chord_ttl(&c->settings));
    return 0;
}

static int open_chords(struct celeryc_client *c, const struct canvas_effects *fx, struct err *e)
{
    struct redis_sync *s = NULL;
    int r = client_backend(c, &s, e);
    for (size_t i = 0; r == 0 && i < fx->n_starts; i++)
        r = open_chord(c, s, &fx->starts[i]);
    return r ? r : redis_sync_flush(s, e);
}

/* ---- publishing ---- */

static const struct redis_script publish_script = {
    .name = "publish",
    .source = "if not redis.call('SET', ARGV[1], '', 'NX', 'EX', ARGV[2]) then return 0 end\n"
              "for i = 3, #ARGV, 2 do redis.call('LPUSH', ARGV[i], ARGV[i + 1]) end\n"
              "return 1",
};

/* marker, its life, and for each message the list and its bytes; in the arena. NULL: out of memory. */
static struct slice *publish_args(const struct celeryc_client *c, struct arena *a,
                                  const struct canvas_effects *fx)
{
    struct slice *argv = arena_alloc_array(a, 2 + 2 * fx->n_messages, sizeof(*argv));
    const char *prefix = c->settings.broker_keyprefix ? c->settings.broker_keyprefix : "";
    char nonce[UUID_TEXT_SIZE];
    uuid4_text(nonce);
    char *marker = arena_printf(a, "%sceleryc:sent:%s", prefix, nonce);
    if (!argv || !marker)
        return NULL;
    argv[0] = slice_str(marker);
    argv[1] = SLICE_LIT(MARK_S);
    for (size_t i = 0; i < fx->n_messages; i++) {
        const struct canvas_message *m = &fx->messages[i];
        CLEANUP(buf_deinit) struct buf key = BUF_INIT;
        char *queue = arena_strdup(a, m->queue);
        if (!queue)
            return NULL;
        queues_key(&key, &c->settings, queue, m->priority);
        char *list = buf_ok(&key) ? NULL : arena_strdup(a, buf_slice(&key));
        if (!list)
            return NULL;
        argv[2 + 2 * i] = (struct slice){list, key.len};
        argv[3 + 2 * i] = m->raw;
    }
    return argv;
}

static int publish(struct celeryc_client *c, struct arena *a, const struct canvas_effects *fx,
                   struct err *e)
{
    const struct slice *argv = publish_args(c, a, fx);
    const struct attempts tries = client_attempts(0);
    const struct redis_reply *reply;
    int r;
    if (!argv)
        return -ENOMEM;
    do {
        *e = ERR_INIT;
        r = connect_to(&c->broker, &c->to_broker, e);
        if (r == 0)
            r = redis_sync_eval(c->to_broker, &publish_script, 2 + 2 * fx->n_messages, argv, &reply,
                                e);
    } while (r && client_again(&tries, c->to_broker, r));
    return r;
}

static int send_all(struct celeryc_client *c, struct arena *a, const struct canvas_effects *fx,
                    struct err *e)
{
    const struct attempts tries = client_attempts(0);
    int r = 0;
    if (fx->n_starts > 0 && !c->has_backend)
        return err_set(e, -EINVAL, "a chord needs a result backend, which this client has not");
    if (fx->n_starts > 0) {
        do {
            *e = ERR_INIT;
            r = open_chords(c, fx, e);
        } while (r && client_again(&tries, client_backend_now(c), r));
    }
    return r || fx->n_messages == 0 ? r : publish(c, a, fx, e);
}

/* ---- applying ---- */

static int apply(struct celeryc_client *c, struct arena *a, struct celeryc_sig *s,
                 const char *options, struct slice *ret_result, struct err *e)
{
    const char *queue = c->settings.default_queue;
    const struct canvas_settings settings = {.default_queue = slice_str(queue ? queue : "celery"),
                                             .wire = c->wire,
                                             .now_us = clock_wall_us()};
    struct canvas_effects fx = canvas_effects_init(a);
    struct slice text = SLICE_NULL;
    if (c->broken)
        return -EINVAL;
    if (celeryc_sig_error(s))
        return err_set(e, -EINVAL, "%s", celeryc_sig_error(s));
    text.p = celeryc_sig_json(s, &text.len);
    int r = canvas_apply(&settings, text, 0, NULL, slice_str(options), NULL, &fx, ret_result, e);
    return r ? r : send_all(c, a, &fx, e);
}

struct celeryc_result *celeryc_client_apply(struct celeryc_client *c, struct celeryc_sig *s,
                                            const char *options)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct celeryc_result *result = NULL;
    struct slice tuple = SLICE_NULL;
    struct err e = ERR_INIT;
    if (!c)
        return NULL;
    int r = a ? apply(c, a, s, options, &tuple, &e) : -ENOMEM;
    if (r == 0) {
        result = client_result_new(c, tuple);
        r = result ? 0 : -ENOMEM;
    }
    if (r)
        (void)client_fail(c, r, &e);
    return result;
}

struct celeryc_result *celeryc_client_result(struct celeryc_client *c, const char *task_id)
{
    CLEANUP(buf_deinit) struct buf tuple = BUF_INIT;
    if (!c || !task_id)
        return NULL;
    buf_append_str(&tuple, "[[");
    json_write_string(&tuple, slice_str(task_id));
    buf_append_str(&tuple, ", null], null]");
    return buf_ok(&tuple) ? NULL : client_result_new(c, buf_slice(&tuple));
}
