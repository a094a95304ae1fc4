/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a signature, in every place where one can stand: whatever canvas makes of it can be sent, stored and
 * counted, and is not more than one frame can carry. */

#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"
#include "celeryc/canvas/canvas.h"
#include "celeryc/message/record.h"
#include "fuzz.h"

#define NOW_US INT64_C(1700000000000000)

static const struct canvas_exception boom = {SLICE_LIT("ValueError"), SLICE_LIT("builtins"),
                                             SLICE_LIT("[\"boom\"]"), SLICE_LIT("Traceback")};

/* A member of a chord that runs. */
struct scene {
    struct arena *a;
    struct canvas_settings settings;
    struct message m;
    struct message_body b;
    size_t n_bytes; /* of the signature; also says how things are set */
};

static struct json_val scanned(struct slice text)
{
    struct json_val v;

    ASSERT(json_scan(text, &v, NULL) == 0);
    return v;
}

/* "e" is an errback of the new style, "t" has options of its own; others are not known here. */
static bool lookup(void *arg, struct slice task, struct canvas_defaults *ret)
{
    const size_t *n_bytes = arg;

    *ret = (struct canvas_defaults){.time_limit_s = 7.5, .priority = 3, .expires_s = 60};
    ret->errback = slice_eq_str(task, "e");
    ret->ignore_result = *n_bytes % 2;
    return ret->errback || slice_eq_str(task, "t");
}

static void set_scene(struct scene *s)
{
    static struct buf raw;
    const struct message_new n = {.task = SLICE_LIT("t"),
                                  .id = SLICE_LIT("00000000-0000-4000-8000-000000000001"),
                                  .queue = SLICE_LIT("celery"),
                                  .group = SLICE_LIT("g"),
                                  .group_index = SLICE_LIT("0"),
                                  .embed = SLICE_LIT("{\"chord\": {\"task\": \"t\", \"options\": "
                                                     "{}}}")};

    s->settings = (struct canvas_settings){
        .default_queue = SLICE_LIT("celery"),
        .node = SLICE_LIT("w@fuzz"),
        .now_us = NOW_US,
        .inherit_priority = s->n_bytes & 2,
        .header_errbacks = s->n_bytes & 4,
        .result_extended = s->n_bytes & 8,
        .lookup = lookup,
        .arg = &s->n_bytes,
    };
    if (raw.len == 0)
        ASSERT(message_write_new(&raw, &n) == 0);
    ASSERT(message_parse(s->a, buf_slice(&raw), &s->m, NULL) == 0);
    ASSERT(message_body(s->a, &s->m, &s->b, NULL) == 0);
}

static void check_message(struct arena *a, const struct canvas_message *sent)
{
    struct message m;
    struct message_body b;
    struct err e = ERR_INIT;
    int code = message_parse(a, sent->raw, &m, &e);

    if (code == 0)
        code = message_body(a, &m, &b, &e);
    if (code) {
        (void)fprintf(stderr, "%s\n%.*s\n", e.text, (int)sent->raw.len, sent->raw.p);
        abort();
    }
    ASSERT(sent->queue.len > 0 && sent->priority >= 0 && sent->priority <= 9);
}

static void check_part(const struct canvas_part *p)
{
    double score;

    ASSERT(p->group_id.len > 0 && p->task_id.len > 0);
    ASSERT(slice_eq_str(p->score, "+inf") || num_parse_f64(p->score, &score) == 0);
    ASSERT(json_len(scanned(p->member)) == 4);
    (void)scanned(p->body);
}

static void check_call(const struct canvas_call *c)
{
    ASSERT(c->task_id.len > 0);
    ASSERT(scanned(c->errback).kind == JSON_K_OBJECT && scanned(c->x.args).kind == JSON_K_ARRAY);
}

static size_t check_effects(struct arena *a, const struct canvas_effects *fx)
{
    CLEANUP(buf_deinit) struct buf children = BUF_INIT;
    struct record_view view;
    size_t bytes = 0;

    for (size_t i = 0; i < fx->n_messages; i++) {
        check_message(a, &fx->messages[i]);
        bytes += fx->messages[i].raw.len;
    }
    for (size_t i = 0; i < fx->n_records; i++) {
        ASSERT(record_parse(fx->records[i].record, &view, NULL) == 0);
        bytes += fx->records[i].record.len;
    }
    for (size_t i = 0; i < fx->n_parts; i++) {
        check_part(&fx->parts[i]);
        bytes += fx->parts[i].member.len + fx->parts[i].body.len;
    }
    for (size_t i = 0; i < fx->n_calls; i++)
        check_call(&fx->calls[i]);
    for (size_t i = 0; i < fx->n_starts; i++)
        if (fx->starts[i].saved.p)
            (void)scanned(fx->starts[i].saved);
    buf_append_char(&children, '[');
    buf_append_slice(&children, fx->children);
    buf_append_char(&children, ']');
    ASSERT(scanned(buf_slice(&children)).kind == JSON_K_ARRAY);
    return bytes;
}

enum op { APPLY, REPLACE, ADD_TO_CHORD, FIRE, FAIL_BODY, SUCCESS, FAILURE, REVOKED, N_OPS };

static int run(enum op op, struct scene *s, struct slice text, struct canvas_effects *fx,
               struct slice *ret_result, struct err *e)
{
    const struct slice results[] = {SLICE_LIT("1"), SLICE_LIT("[1.0, 1e400, \"\\ud83d\"]")};
    const struct canvas_parent p = {s->m.id, s->m.root_id, 3};

    switch (op) {
    case APPLY:
        return canvas_apply(&s->settings, text, 2, results, SLICE_LIT("{\"priority\": 1}"), &p, fx,
                            ret_result, e);
    case REPLACE:
        return canvas_replace(&s->settings, &s->m, &s->b, text, fx, e);
    case ADD_TO_CHORD:
        return canvas_add_to_chord(&s->settings, &s->m, &s->b, text, fx, e);
    case FIRE:
        return canvas_fire(&s->settings, text, 2, results, &p, fx, e);
    case FAIL_BODY:
        return canvas_fail_body(&s->settings, text, &boom, &boom, text, &p, fx);
    case SUCCESS:
        return canvas_success(&s->settings, &s->m, &s->b, results[1], fx, e);
    case FAILURE:
        return canvas_failure(&s->settings, &s->m, &s->b, &boom, false, true, fx);
    case REVOKED:
        return canvas_failure(&s->settings, &s->m, &s->b, &boom, true, true, fx);
    default:
        abort();
    }
}

/* What a task that is embedded in the message leads to. */
static void embed(struct scene *s, struct slice text)
{
    char *twice = arena_printf(s->a, "[%.*s, %.*s]", (int)text.len, text.p, (int)text.len, text.p);
    struct json_val both;

    ASSERT(twice);
    if (json_scan(slice_str(twice), &both, NULL))
        return; /* too deep by one */
    s->b.callbacks = s->b.errbacks = s->b.chain = both;
    s->b.chord = json_at(both, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice text = {(const char *)data, size};
    struct json_val v;

    if (json_scan(text, &v, NULL))
        return 0;
    for (enum op op = APPLY; op < N_OPS; op++) {
        CLEANUP(arena_free) struct arena *a = arena_new();
        struct canvas_effects fx = canvas_effects_init(a);
        struct scene s = {.a = a, .n_bytes = size};
        struct slice result = SLICE_NULL;
        struct err e = ERR_INIT;
        int code;

        set_scene(&s);
        if (op >= SUCCESS)
            embed(&s, v.raw);
        code = run(op, &s, v.raw, &fx, &result, &e);
        ASSERT(code == 0 || (code > 0 && e.text[0]));
        if (code)
            continue;
        ASSERT(check_effects(a, &fx) <= LIMIT_FRAME_BYTES);
        if (result.p)
            (void)scanned(result);
    }
    return 0;
}
