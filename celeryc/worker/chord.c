/* SPDX-License-Identifier: Apache-2.0 */
/* From a complete chord to the message of its body.
 *
 *   READING --parts--> (joined) ----------------------------> FIRING --> gone
 *                 \--a nested header lacks results--> WAITING <--> LOOKING --> FIRING
 *   READING --a member failed--> PAUSED --------------------> FIRING
 *   FIRING, one database: one step of the transport (claim checked, body sent, chord cleaned up)
 *   FIRING, a backend of its own: BEGUN (claim extended, records and parts) -> SENT (messages, once) -> settled
 *
 * A chord that is claimed has a note in celeryc:fire until it is cleaned up. So nothing here has to be repeated over
 * lost connections except what changes something: whoever reads in vain drops the chord, and the next look at the
 * notes, here or in another worker, finds it when its claim has run out. In Celery a chord whose claimer dies is lost.
 *
 * The loop is never blocked and no slot is held: results that are still missing are looked for now and then, and the
 * claim is extended meanwhile. What must never happen: a body that is sent twice, or by one whose claim was taken. */

#include "celeryc/worker/chord.h"

#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"
#include "celeryc/message/record.h"
#include "celeryc/result/chord.h"
#include "celeryc/worker/errback.h"
#include "celeryc/worker/join.h"
#include "celeryc/worker/worker_priv.h"

#include <errno.h>
#include <string.h>

#define SCAN_MS       5000
#define FIRST_SCAN_MS 500
#define SCAN_NOTES    20
#define LOOK_MS       200 /* between two looks for missing results */
#define LOOK_LEAVES   500 /* of one look */
#define WAIT_CLAIM_S  21  /* Celery's life of a claim while it publishes */
#define PAUSE_MS      20
#define MAX_FIRING    64 /* notes are not taken beyond that */

enum chord_state {
    CHORD_READING,
    CHORD_WAITING,
    CHORD_LOOKING,
    CHORD_PAUSED,
    CHORD_FIRING,
};

static void tick(uv_timer_t *t);

struct chord {
    struct list node;
    struct worker *w;
    struct arena *arena;
    enum chord_state state;
    struct slice key;
    char token[RESULT_TOKEN_SIZE];
    struct chord_note note;
    struct join *join; /* parts, and what was found of missing results */
    struct effects fx;
    struct canvas_effects calls; /* errbacks to be called when it has been fired */
    bool failed;                 /* settle as an error */
    bool member_failed;          /* and because of a member */
    uint64_t fire_ms;            /* PAUSED: until then, time of the loop */
};

static void drop(struct chord *c)
{
    struct worker *w = c->w;
    list_remove(&c->node);
    w->n_chords--;
    join_free(c->join);
    arena_free(c->arena);
    free(c);
    shutdown_step(w);
}

static void drop_for_memory(struct chord *c)
{
    log_critical("out of memory: chord %.*s stays until its claim runs out", (int)c->note.group.len,
                 c->note.group.p);
    drop(c);
}

static struct slice fire_key(const struct worker *w)
{
    return w->chords.fire_key;
}

/* ---- the end ---- */

static void settled(const struct redis_reply *reply, void *arg)
{
    struct chord *c = arg;
    if (redis_reply_ok(reply) && reply->integer == 0)
        log_warning("chord %.*s: the claim was lost before the cleanup; it is left for expiry",
                    (int)c->note.group.len, c->note.group.p);
    else if (redis_reply_ok(reply))
        transport_forget_once(c->w->transport, c->note.nonce.p);
    drop(c);
}

/* A backend of its own: the messages are out. */
static void sent(enum transport_done done, void *arg)
{
    struct chord *c = arg;
    (void)done;
    const struct slice argv[] = {c->key, slice_str(c->token),
                                 c->failed ? SLICE_LIT("e") : SLICE_LIT("b"), fire_key(c->w)};
    lookup_eval(c->w, &chord_settle, settled, c, ARRAY_SIZE(argv), argv);
}

static void tell_lost(const struct chord *c)
{
    log_warning("chord %.*s: its body was not sent here: the claim is another worker's now",
                (int)c->note.group.len, c->note.group.p);
}

static void begun(enum result_done done, void *arg)
{
    struct chord *c = arg;
    if (done == RESULT_LOST) {
        tell_lost(c);
        drop(c);
        return;
    }
    if (done == RESULT_CLAIMED)
        chord_claimed(c->w, &c->fx);
    errbacks_add(c->w, &c->calls);
    transport_publish_once(c->w->transport, c->note.nonce.p, c->fx.n_push, c->fx.push, sent, c);
}

static void fired(enum transport_done done, void *arg)
{
    struct chord *c = arg;
    if (done == TRANSPORT_LOST)
        tell_lost(c);
    else
        errbacks_add(c->w, &c->calls);
    if (done == TRANSPORT_CLAIMED)
        chord_claimed(c->w, &c->fx);
    drop(c);
}

static struct canvas_parent parent_of(const struct chord *c)
{
    return (struct canvas_parent){c->note.parent, c->note.root, c->note.priority};
}

static void fire_now(struct chord *c)
{
    struct worker *w = c->w;
    c->state = CHORD_FIRING;
    if (w->backend) {
        result_backend_begin_fire(w->backend, c->key, c->token, WAIT_CLAIM_S, &c->fx.x, begun, c);
        return;
    }
    const struct transport_fire f = {.key = c->key,
                                     .fire_key = fire_key(w),
                                     .token = c->token,
                                     .failed = c->failed,
                                     .end = effects_end(&c->fx)};
    transport_fire_chord(w->transport, &f, fired, c);
}

/* ---- the pause ----
 * A Python client that begins to wait for the body looks whether a member has failed, to raise that error, then whether
 * the body has ended. If both happened in between it raises the ChordError. So the body fails a little later. */

static void unpause(uv_timer_t *t)
{
    struct worker *w = t->data;
    uint64_t next_ms = 0;
    struct list *it = w->firing.next;
    while (it != &w->firing) {
        struct chord *c = LIST_ENTRY(it, struct chord, node);
        it = it->next;
        if (c->state != CHORD_PAUSED)
            continue;
        if (c->fire_ms <= uv_now(&w->loop))
            fire_now(c);
        else if (!next_ms || c->fire_ms < next_ms)
            next_ms = c->fire_ms;
    }
    if (next_ms)
        (void)uv_timer_start(t, unpause, next_ms - uv_now(&w->loop), 0);
}

static void pause_chord(struct chord *c)
{
    struct worker *w = c->w;
    c->state = CHORD_PAUSED;
    c->fire_ms = uv_now(&w->loop) + PAUSE_MS;
    if (!uv_is_active((uv_handle_t *)&w->pause_timer))
        (void)uv_timer_start(&w->pause_timer, unpause, PAUSE_MS, 0);
}

static void fire(struct chord *c, const struct canvas_effects *fx, bool failed)
{
    const struct canvas_parent p = parent_of(c);
    c->failed = failed;
    if (effects_make(c->w, c->arena, fx, &p, &c->fx))
        drop_for_memory(c);
    else if (c->member_failed && uv_is_active((uv_handle_t *)&c->w->chord_timer))
        pause_chord(c);
    else
        fire_now(c);
}

/* The chord has failed with x. settle_failed: as Celery after a failed member, else after a body that cannot be sent. */
static void fail(struct chord *c, const struct canvas_exception *x,
                 const struct canvas_exception *cause, bool settle_failed)
{
    struct canvas_effects fx = canvas_effects_init(c->arena);
    const struct canvas_settings s = task_canvas_settings(c->w->table, &c->w->settings);
    const struct canvas_parent p = parent_of(c);
    CLEANUP(buf_deinit) struct buf repr = BUF_INIT;
    record_write_exception_repr(&repr, x->type, x->args);
    log_error("Chord '%.*s' raised: %s", (int)c->note.group.len, c->note.group.p,
              repr.data ? repr.data : "");
    if (canvas_fail_body(&s, c->note.body, x, cause, &p, &fx)) {
        drop_for_memory(c);
        return;
    }
    c->calls = fx;
    c->member_failed = cause;
    fire(c, &fx, settle_failed);
}

/* ChordError("<what>: <text>") */
static void fail_with(struct chord *c, const char *what, struct slice text, bool settle_failed)
{
    CLEANUP(buf_deinit) struct buf message = BUF_INIT;
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    buf_appendf(&message, "%s: ", what);
    buf_append_slice(&message, text);
    buf_append_char(&args, '[');
    json_write_string(&args, buf_slice(&message));
    buf_append_char(&args, ']');
    char *kept = message.failed || args.failed ? NULL : arena_strdup(c->arena, buf_slice(&args));
    if (!kept) {
        drop_for_memory(c);
        return;
    }
    const struct canvas_exception x = {.type = SLICE_LIT("ChordError"),
                                       .module = SLICE_LIT("celery.exceptions"),
                                       .args = {kept, args.len}};
    fail(c, &x, NULL, settle_failed);
}

static bool too_large(const struct canvas_effects *fx)
{
    for (size_t i = 0; i < fx->n_messages; i++)
        if (fx->messages[i].raw.len > LIMIT_MESSAGE_BYTES)
            return true;
    return false;
}

static void send_body(struct chord *c, size_t n, const struct slice *results)
{
    struct canvas_effects fx = canvas_effects_init(c->arena);
    const struct canvas_settings s = task_canvas_settings(c->w->table, &c->w->settings);
    const struct canvas_parent p = parent_of(c);
    struct err e = ERR_INIT;
    int r = canvas_fire(&s, c->note.body, n, results, &p, &fx, &e);
    if (r == 0 && too_large(&fx))
        r = err_set(&e, CANVAS_E_BAD, "its message is larger than %u bytes", LIMIT_MESSAGE_BYTES);
    if (r == CANVAS_E_BAD)
        fail_with(c, "Callback error", slice_str(err_text(&e, -EINVAL)), false);
    else if (r)
        drop_for_memory(c);
    else
        fire(c, &fx, false);
}

/* ---- joining ---- */

static void try_join(struct chord *c)
{
    const struct slice *results = NULL;
    struct join_failure failure;
    size_t n = 0;
    switch (join_results(c->join, &n, &results, &failure)) {
    case 0:
        send_body(c, n, results);
        return;
    case JOIN_E_FAILED:
        if (failure.text.p) {
            fail_with(c, "Join error", failure.text, true);
            return;
        }
        struct canvas_exception x, cause;
        if (canvas_chord_error(c->arena, failure.member, &x, &cause))
            drop_for_memory(c);
        else
            fail(c, &x, &cause, true);
        return;
    case JOIN_E_MISSING:
        c->state = CHORD_WAITING;
        (void)uv_timer_start(&c->w->chord_timer, tick, LOOK_MS, 0);
        return;
    default:
        drop_for_memory(c);
    }
}

static void looked(const struct redis_reply *reply, void *arg)
{
    struct chord *c = arg;
    if (!redis_reply_ok(reply) || reply->kind != REDIS_R_ARRAY) {
        drop(c);
        return;
    }
    for (size_t i = 0; i < reply->n; i++) {
        const struct redis_reply *v = reply->elem[i];
        if (v->kind == REDIS_R_STRING && join_found(c->join, i, v->str)) {
            drop_for_memory(c);
            return;
        }
    }
    c->state = CHORD_WAITING;
    try_join(c);
}

static void extended(const struct redis_reply *reply, void *arg)
{
    struct chord *c = arg;
    struct worker *w = c->w;
    if (!redis_reply_ok(reply) || reply->integer == 0) {
        if (redis_reply_ok(reply))
            tell_lost(c);
        drop(c);
        return;
    }
    size_t n = 0;
    const struct slice *ids = NULL;
    CLEANUP(result_args_deinit) struct result_args keys = {.arena = c->arena};
    join_missing(c->join, LOOK_LEAVES, &n, &ids);
    const char *prefix = w->config->settings.result_keyprefix;
    for (size_t i = 0; i < n; i++) {
        CLEANUP(buf_deinit) struct buf key = BUF_INIT;
        result_key(&key, prefix ? prefix : "", ids[i]);
        char *copy = buf_ok(&key) ? NULL : arena_strdup(join_scratch(c->join), buf_slice(&key));
        if (!copy) {
            drop_for_memory(c);
            return;
        }
        result_args_add(&keys, (struct slice){copy, key.len});
    }
    lookup_eval(w, &chord_leaves, looked, c, keys.n, keys.v);
}

static void look(struct chord *c)
{
    char life[8];
    c->state = CHORD_LOOKING;
    (void)snprintf(life, sizeof(life), "%d", WAIT_CLAIM_S);
    const struct slice argv[] = {c->key, slice_str(c->token), slice_str(life)};
    lookup_eval(c->w, &chord_extend, extended, c, ARRAY_SIZE(argv), argv);
}

static void on_parts(const struct redis_reply *reply, void *arg)
{
    struct chord *c = arg;
    if (!redis_reply_ok(reply)) {
        drop(c); /* the note stays */
        return;
    }
    if (reply->kind == REDIS_R_STATUS) {
        if (slice_eq_str(reply->str, "large"))
            fail_with(c, "Join error", SLICE_LIT("the results are larger than a worker reads"),
                      true);
        else
            drop(c); /* not one that this call completed */
        return;
    }
    if (reply->kind != REDIS_R_ARRAY || reply->n != 2 || reply->elem[1]->kind != REDIS_R_ARRAY) {
        drop(c);
        return;
    }
    const struct redis_reply *parts = reply->elem[1];
    struct err e = ERR_INIT;
    c->join = join_new();
    int r = c->join ? join_saved(c->join, reply->elem[0]->str, &e) : -ENOMEM;
    for (size_t i = 0; r == 0 && i < parts->n; i++)
        r = join_part(c->join, parts->elem[i]->str, &e);
    if (r == -ENOMEM)
        drop_for_memory(c);
    else if (r)
        fail_with(c, "Join error", slice_str(err_text(&e, r)), true);
    else
        try_join(c);
}

/* ---- beginning ---- */

static void begin(struct worker *w, struct slice key, struct slice note, const char *token)
{
    struct chord *c = calloc(1, sizeof(*c));
    struct arena *arena = arena_new();
    char *text = arena ? arena_strdup(arena, note) : NULL;
    char *own_key = arena ? arena_strdup(arena, key) : NULL;
    int r = text && own_key && c ? chord_note_parse(arena, (struct slice){text, note.len}, &c->note)
                                 : -ENOMEM;
    if (r) {
        log_error("chord %.*s cannot be fired: %s", (int)key.len, key.p,
                  r == -ENOMEM ? "out of memory" : "its note cannot be read");
        arena_free(arena);
        free(c);
        return;
    }
    c->w = w;
    c->arena = arena;
    c->key = (struct slice){own_key, key.len};
    (void)snprintf(c->token, sizeof(c->token), "%s", token);
    list_push_back(&w->firing, &c->node);
    w->n_chords++;
    char limit[16];
    (void)snprintf(limit, sizeof(limit), "%u", CHORD_MAX_BYTES);
    const struct slice argv[] = {c->key, slice_str(c->token),
                                 w->chords.ordered ? SLICE_LIT("1") : SLICE_LIT("0"),
                                 slice_str(limit)};
    lookup_eval(w, &chord_read, on_parts, c, ARRAY_SIZE(argv), argv);
}

void chord_claimed(struct worker *w, const struct effects *e)
{
    /* Which ones it were is told by their claims: reading the others finds them not to be ours. */
    for (size_t i = 0; i < e->x.n_parts; i++)
        begin(w, e->x.parts[i].key, e->x.parts[i].note, e->chords.token);
}

/* ---- the notes of the dead ---- */

static void scanned(const struct redis_reply *reply, void *arg)
{
    struct worker *w = arg;
    w->scanning = false;
    if (!redis_reply_ok(reply) || reply->kind != REDIS_R_ARRAY)
        return;
    for (size_t i = 0; i + 1 < reply->n; i += 2) {
        struct slice key = reply->elem[i]->str;
        log_warning("the worker that claimed %.*s died before it was fired: firing it here",
                    (int)key.len, key.p);
        begin(w, key, reply->elem[i + 1]->str, w->scan_token);
    }
}

static void scan(struct worker *w)
{
    char life[24], most[8];
    if (w->scanning || w->n_chords >= MAX_FIRING)
        return;
    w->scanning = true;
    result_token(w->scan_token);
    (void)snprintf(life, sizeof(life), "%lld", (long long)w->chords.claim_s);
    (void)snprintf(most, sizeof(most), "%d", SCAN_NOTES);
    const struct slice argv[] = {fire_key(w), slice_str(w->scan_token), slice_str(life),
                                 buf_slice(&w->note_start), slice_str(most)};
    lookup_eval(w, &chord_scan, scanned, w, ARRAY_SIZE(argv), argv);
}

static void tick(uv_timer_t *t)
{
    struct worker *w = t->data;
    bool waiting = false;
    struct list *it = w->firing.next;
    while (it != &w->firing) {
        struct chord *c = LIST_ENTRY(it, struct chord, node);
        it = it->next;
        waiting |= c->state == CHORD_WAITING || c->state == CHORD_LOOKING;
        if (c->state == CHORD_WAITING)
            look(c);
    }
    if (!waiting || uv_now(&w->loop) >= w->next_scan_ms) {
        w->next_scan_ms = uv_now(&w->loop) + SCAN_MS;
        scan(w);
    }
    (void)uv_timer_start(&w->chord_timer, tick, waiting ? LOOK_MS : SCAN_MS, 0);
}

void chord_watch(struct worker *w)
{
    (void)uv_timer_start(&w->chord_timer, tick, FIRST_SCAN_MS, 0);
}

void chord_drain(struct worker *w)
{
    (void)uv_timer_stop(&w->chord_timer);
    struct list *it = w->firing.next;
    while (it != &w->firing) {
        struct chord *c = LIST_ENTRY(it, struct chord, node);
        it = it->next;
        if (c->state != CHORD_WAITING)
            continue;
        log_info("chord %.*s waits for results; its body is left to another worker",
                 (int)c->note.group.len, c->note.group.p);
        drop(c);
    }
}

int chord_setup(struct worker *w)
{
    const struct settings *s = &w->config->settings;
    const char *prefix = s->result_keyprefix ? s->result_keyprefix : "";
    int64_t expires = (int64_t)MAX(s->result_expires, 0);
    list_init(&w->firing);
    result_fire_key(&w->fire_key, prefix);
    chord_note_start(&w->note_start, w);
    if (buf_ok(&w->fire_key) || buf_ok(&w->note_start))
        return -ENOMEM;
    w->chords = (struct result_chords){
        .ordered = !s->chord_unordered,
        .ttl_s = s->result_chord_expires >= 0 ? (int64_t)s->result_chord_expires : expires,
        .claim_s = MAX(5, (int64_t)(MIN(s->chord_join_timeout, 1e6) * 2)),
        .fire_key = buf_slice(&w->fire_key),
    };
    /* Saved groups hold what a result holds: they live as long as the longer of the two. */
    w->chords.group_ttl_s = w->chords.ttl_s && expires ? MAX(w->chords.ttl_s, expires) : 0;
    int r = uv_timer_init(&w->loop, &w->chord_timer);
    if (r == 0)
        r = uv_timer_init(&w->loop, &w->pause_timer);
    w->chord_timer.data = w;
    w->pause_timer.data = w;
    return r;
}

void chord_teardown(struct worker *w)
{
    while (w->firing.next && !list_empty(&w->firing))
        drop(LIST_ENTRY(w->firing.next, struct chord, node));
    buf_deinit(&w->fire_key);
    buf_deinit(&w->note_start);
}
