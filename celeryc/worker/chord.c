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

#include "celeryc/worker/chord_priv.h"

#include "celeryc/base/log.h"
#include "celeryc/result/chord.h"

#include <errno.h>

#define SCAN_MS       5000
#define FIRST_SCAN_MS 500
#define SCAN_NOTES    20
#define LOOK_MS       200 /* between two looks for missing results */
#define LOOK_LEAVES   500 /* of one look */
#define MAX_FIRING    64  /* notes are not taken beyond that */

static void tick(uv_timer_t *t);

void chord_drop(struct chord *c)
{
    struct worker *w = c->w;
    list_remove(&c->node);
    w->n_chords--;
    join_free(c->join);
    arena_free(c->arena);
    free(c);
    shutdown_step(w);
}

void chord_drop_for_memory(struct chord *c)
{
    log_critical("out of memory: chord %.*s stays until its claim runs out", (int)c->note.group.len,
                 c->note.group.p);
    chord_drop(c);
}

/* ---- joining ---- */

static void try_join(struct chord *c)
{
    const struct slice *results = NULL;
    struct join_failure failure;
    size_t n = 0;
    switch (join_results(c->join, &n, &results, &failure)) {
    case 0:
        chord_send_body(c, n, results);
        return;
    case JOIN_E_FAILED:
        if (failure.text.p) {
            chord_fail_with(c, "Join error", failure.text, true);
            return;
        }
        struct canvas_exception x, cause;
        if (canvas_chord_error(c->arena, failure.member, &x, &cause))
            chord_drop_for_memory(c);
        else
            chord_fail(c, &x, &cause, true);
        return;
    case JOIN_E_MISSING:
        c->state = CHORD_WAITING;
        (void)uv_timer_start(&c->w->chord_timer, tick, LOOK_MS, 0);
        shutdown_step(c->w); /* a worker that leaves does not wait for them */
        return;
    default:
        chord_drop_for_memory(c);
    }
}

static void looked(const struct redis_reply *reply, void *arg)
{
    struct chord *c = arg;
    if (!redis_reply_ok(reply) || reply->kind != REDIS_R_ARRAY) {
        chord_drop(c);
        return;
    }
    for (size_t i = 0; i < reply->n; i++) {
        const struct redis_reply *v = reply->elem[i];
        if (v->kind == REDIS_R_STRING && join_found(c->join, i, v->str)) {
            chord_drop_for_memory(c);
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
            chord_tell_lost(c);
        chord_drop(c);
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
            chord_drop_for_memory(c);
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
    (void)snprintf(life, sizeof(life), "%d", CHORD_CLAIM_S);
    const struct slice argv[] = {c->key, slice_str(c->token), slice_str(life)};
    lookup_eval(c->w, &chord_extend, extended, c, ARRAY_SIZE(argv), argv);
}

static void on_parts(const struct redis_reply *reply, void *arg)
{
    struct chord *c = arg;
    if (!redis_reply_ok(reply)) {
        chord_drop(c); /* the note stays */
        return;
    }
    if (reply->kind == REDIS_R_STATUS) {
        if (slice_eq_str(reply->str, "large"))
            chord_fail_with(c, "Join error",
                            SLICE_LIT("the results are larger than a worker reads"), true);
        else
            chord_drop(c); /* not one that this call completed */
        return;
    }
    if (reply->kind != REDIS_R_ARRAY || reply->n != 2 || reply->elem[1]->kind != REDIS_R_ARRAY) {
        chord_drop(c);
        return;
    }
    const struct redis_reply *parts = reply->elem[1];
    struct err e = ERR_INIT;
    c->join = join_new();
    int r = c->join ? join_saved(c->join, reply->elem[0]->str, &e) : -ENOMEM;
    for (size_t i = 0; r == 0 && i < parts->n; i++)
        r = join_part(c->join, parts->elem[i]->str, &e);
    if (c->join && r != -ENOMEM && join_called(c->join, c->arena, &c->called))
        r = -ENOMEM;
    if (r == -ENOMEM)
        chord_drop_for_memory(c);
    else if (r)
        chord_fail_with(c, "Join error", slice_str(err_text(&e, r)), true);
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
    const struct slice argv[] = {w->chords.fire_key, slice_str(w->scan_token), slice_str(life),
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
        chord_drop(c);
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
        chord_drop(LIST_ENTRY(w->firing.next, struct chord, node));
    buf_deinit(&w->fire_key);
    buf_deinit(&w->note_start);
}
