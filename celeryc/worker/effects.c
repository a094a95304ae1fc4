/* SPDX-License-Identifier: Apache-2.0 */
/* From canvas's words to the store's. The note of a part is what another worker needs to fire the chord when this one
 * dies after the last part was counted; see celeryc/result/effects.h for its format.
 *
 * A note names the broker that the chord's messages go to, because several brokers may share one result backend. Workers
 * that spell one broker differently (localhost, 127.0.0.1) do not fire each other's chords. */

#include "celeryc/worker/effects.h"

#include "celeryc/base/codec.h"
#include "celeryc/worker/worker_priv.h"

#include <errno.h>
#include <string.h>

static const char *result_prefix(const struct worker *w)
{
    const char *prefix = w->config->settings.result_keyprefix;
    return prefix ? prefix : "";
}

static int64_t seconds_of(double s)
{
    return s > 0 ? (int64_t)s : 0;
}

static struct slice key_in(struct worker *w, struct arena *a, struct slice id, bool group)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    if (group)
        result_group_key(&b, result_prefix(w), id);
    else
        result_key(&b, result_prefix(w), id);
    char *copy = buf_ok(&b) ? NULL : arena_strdup(a, buf_slice(&b));
    return (struct slice){copy, copy ? b.len : 0};
}

/* ---- notes ---- */

void chord_note_start(struct buf *dst, const struct worker *w)
{
    const char *prefix = w->config->settings.broker_keyprefix;
    CLEANUP(buf_deinit) struct buf name = BUF_INIT;
    if (!w->config->same_backend)
        redis_endpoint_write_name(&name, &w->config->broker);
    buf_appendf(&name, "|%s", prefix ? prefix : "");
    buf_append_str(dst, "{\"v\": 1, \"broker\": ");
    json_write_string(dst, buf_slice(&name));
    buf_append_str(dst, ", ");
    dst->failed |= name.failed;
}

static struct slice write_note(struct worker *w, struct arena *a, const struct canvas_part *part,
                               const struct canvas_parent *p, const char *token, size_t index)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    chord_note_start(&b, w);
    buf_appendf(&b, "\"nonce\": \"%s-%zu\", \"owner\": ", token, index);
    json_write_string(&b, slice_str(w->config->node));
    buf_append_str(&b, ", \"group\": ");
    json_write_string(&b, part->group_id);
    buf_append_str(&b, ", \"parent\": ");
    json_write_string_or_null(&b, p->id);
    buf_append_str(&b, ", \"root\": ");
    json_write_string_or_null(&b, p->root_id);
    buf_appendf(&b, ", \"priority\": %d, \"body\": ", p->priority);
    buf_append_slice(&b, part->body);
    buf_append_char(&b, '}');
    char *copy = buf_ok(&b) ? NULL : arena_strdup(a, buf_slice(&b));
    return (struct slice){copy, copy ? b.len : 0};
}

static int take_text(struct arena *a, struct json_val note, const char *key, struct slice *ret_s)
{
    struct json_val v = json_get(note, key);
    if (json_is_null(v))
        return 0;
    return json_string_z(a, v, ret_s);
}

int chord_note_parse(struct arena *a, struct slice text, struct chord_note *ret_n)
{
    struct json_val v;
    struct chord_note n = {0};
    int64_t version = 0, priority = 0;
    if (json_scan(text, &v, NULL) || json_i64(json_get(v, "v"), &version) || version != 1 ||
        json_i64(json_get(v, "priority"), &priority) || priority < 0 || priority > 9)
        return -EINVAL;
    int r = take_text(a, v, "nonce", &n.nonce);
    if (r == 0)
        r = take_text(a, v, "group", &n.group);
    if (r == 0)
        r = take_text(a, v, "parent", &n.parent);
    if (r == 0)
        r = take_text(a, v, "root", &n.root);
    if (r)
        return r;
    n.priority = (int)priority;
    n.body = json_get(v, "body").raw;
    if (!n.nonce.p || !n.body.p)
        return -EINVAL;
    *ret_n = n;
    return 0;
}

/* ---- effects ---- */

static int make_records(struct worker *w, struct arena *a, const struct canvas_effects *from,
                        struct effects *e)
{
    const struct settings *s = &w->config->settings;
    if (!w->config->has_backend || from->n_records == 0)
        return 0;
    struct result_record *v = arena_alloc_array(a, from->n_records, sizeof(*v));
    if (!v)
        return -ENOMEM;
    for (size_t i = 0; i < from->n_records; i++) {
        const struct canvas_record *r = &from->records[i];
        bool failure = r->failure && s->result_failure_expires >= 0;
        v[i] = (struct result_record){
            .key = key_in(w, a, r->task_id, false),
            .value = r->record,
            .ttl_s = seconds_of(failure ? s->result_failure_expires : s->result_expires)};
        if (!v[i].key.p)
            return -ENOMEM;
    }
    e->x.n_records = from->n_records;
    e->x.records = v;
    return 0;
}

static int make_starts(struct worker *w, struct arena *a, const struct canvas_effects *from,
                       struct effects *e)
{
    struct result_start *v = arena_alloc_array(a, from->n_starts, sizeof(*v));
    struct result_add *add = arena_alloc_array(a, from->n_adds, sizeof(*add));
    if (!v || !add)
        return -ENOMEM;
    for (size_t i = 0; i < from->n_starts; i++) {
        const struct canvas_start *s = &from->starts[i];
        v[i] = (struct result_start){key_in(w, a, s->group_id, true), s->size, s->saved};
        if (!v[i].key.p)
            return -ENOMEM;
    }
    for (size_t i = 0; i < from->n_adds; i++) {
        char *nonce = arena_printf(a, "celeryc:%s-%zu", e->chords.token, i);
        add[i] = (struct result_add){key_in(w, a, from->adds[i].group_id, true), from->adds[i].n,
                                     slice_str(nonce)};
        if (!add[i].key.p || !nonce)
            return -ENOMEM;
    }
    e->x.n_starts = from->n_starts;
    e->x.starts = v;
    e->x.n_adds = from->n_adds;
    e->x.adds = add;
    return 0;
}

static int make_parts(struct worker *w, struct arena *a, const struct canvas_effects *from,
                      const struct canvas_parent *p, struct effects *e)
{
    struct result_part *v = arena_alloc_array(a, from->n_parts, sizeof(*v));
    if (!v)
        return -ENOMEM;
    for (size_t i = 0; i < from->n_parts; i++) {
        const struct canvas_part *part = &from->parts[i];
        v[i] = (struct result_part){.key = key_in(w, a, part->group_id, true),
                                    .task_id = part->task_id,
                                    .score = part->score,
                                    .member = part->member,
                                    .note = write_note(w, a, part, p, e->chords.token, i)};
        if (!v[i].key.p || !v[i].note.p)
            return -ENOMEM;
    }
    e->x.n_parts = from->n_parts;
    e->x.parts = v;
    return 0;
}

static int make_pushes(struct arena *a, const struct canvas_effects *from, struct effects *e)
{
    struct transport_push *v = arena_alloc_array(a, from->n_messages, sizeof(*v));
    if (!v)
        return -ENOMEM;
    for (size_t i = 0; i < from->n_messages; i++) {
        const struct canvas_message *m = &from->messages[i];
        char *queue = arena_strdup(a, m->queue);
        if (!queue)
            return -ENOMEM;
        v[i] = (struct transport_push){queue, m->priority, m->raw};
    }
    e->n_push = from->n_messages;
    e->push = v;
    return 0;
}

int effects_make(struct worker *w, struct arena *a, const struct canvas_effects *from,
                 const struct canvas_parent *p, struct effects *ret)
{
    *ret = (struct effects){.chords = w->chords};
    int r = make_records(w, a, from, ret);
    if (r == 0 && w->config->has_backend && from->n_starts + from->n_adds + from->n_parts) {
        result_token(ret->chords.token);
        ret->x.chords = &ret->chords;
        r = make_starts(w, a, from, ret);
        if (r == 0)
            r = make_parts(w, a, from, p, ret);
    }
    return r ? r : make_pushes(a, from, ret);
}

static int keep(struct arena *a, struct slice *s)
{
    if (!s->p)
        return 0;
    char *copy = arena_strdup(a, *s);
    if (!copy)
        return -ENOMEM;
    s->p = copy;
    return 0;
}

int effects_keep(struct arena *a, struct effects *e)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < e->n_push; i++)
        r = keep(a, &e->push[i].raw);
    return r;
}

struct transport_end effects_end(const struct effects *e)
{
    if (!e)
        return (struct transport_end){0};
    return (struct transport_end){.effects = &e->x, .n_push = e->n_push, .push = e->push};
}
