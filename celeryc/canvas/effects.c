/* SPDX-License-Identifier: Apache-2.0 */
/* Memory and bookkeeping of one call: the arena, the first failure, the lists of effects, the children.
 *
 * A failure is remembered and turns everything after it into nothing, so that the code that builds trees need not ask
 * after each step; each public function ends with canvas_end, which gives it. What must never happen: more bytes out
 * than a frame to the master can hold (a small message can name one large body under many members). */

#include "celeryc/canvas/canvas_priv.h"

#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"

#include <errno.h>
#include <string.h>

#define FIRST_CAP 4

int canvas_fail(struct canvas *c, int code)
{
    if (c->code == 0)
        c->code = code;
    return c->code;
}

int canvas_bad(struct canvas *c, const char *what)
{
    if (c->code == 0)
        (void)err_set(c->e, CANVAS_E_BAD, "signature: %s", what);
    return canvas_fail(c, CANVAS_E_BAD);
}

struct canvas canvas_begin(const struct canvas_settings *s, const struct canvas_parent *p,
                           struct canvas_effects *fx, struct err *e)
{
    static const struct canvas_parent nobody = {{NULL, 0}, {NULL, 0}, 0};

    return (struct canvas){.s = s,
                           .parent = p ? p : &nobody,
                           .fx = fx,
                           .arena = fx->arena,
                           .e = e,
                           .children = BUF_INIT};
}

int canvas_end(struct canvas *c)
{
    struct slice fresh = SLICE_NULL;

    if (c->children.len > 0)
        fresh = canvas_keep(c, &c->children);
    buf_deinit(&c->children);
    if (c->code || !fresh.p)
        return c->code;
    if (c->fx->children.p) {
        char *both = arena_printf(c->arena, "%.*s, %.*s", (int)c->fx->children.len,
                                  c->fx->children.p, (int)fresh.len, fresh.p);
        if (!both)
            return canvas_fail(c, -ENOMEM);
        fresh = slice_str(both);
    }
    c->fx->children = fresh;
    return 0;
}

/* ---- memory ---- */

void *canvas_alloc(struct canvas *c, size_t size)
{
    void *p = c->code ? NULL : arena_alloc(c->arena, size);

    if (!p)
        (void)canvas_fail(c, -ENOMEM);
    return p;
}

bool canvas_grow(struct canvas *c, void *array, size_t n, size_t *cap, size_t size)
{
    void **at = array, *fresh;
    size_t more = *cap ? *cap * 2 : FIRST_CAP;

    if (c->code)
        return false;
    if (n < *cap)
        return true;
    fresh = arena_alloc_array(c->arena, more, size);
    if (!fresh) {
        (void)canvas_fail(c, -ENOMEM);
        return false;
    }
    if (n)
        memcpy(fresh, *at, n * size);
    *at = fresh;
    *cap = more;
    return true;
}

struct slice canvas_keep(struct canvas *c, struct buf *b)
{
    char *p = NULL;
    size_t len = b->len;

    if (b->failed)
        (void)canvas_fail(c, -ENOMEM);
    else if (len > LIMIT_FRAME_BYTES)
        (void)canvas_bad(c, "too large");
    else
        p = canvas_alloc(c, len + 1);
    if (p && len)
        memcpy(p, b->data, len);
    buf_deinit(b);
    return p ? (struct slice){p, len} : SLICE_NULL;
}

struct json_val canvas_text(struct canvas *c, struct slice utf8)
{
    struct buf b = BUF_INIT;
    struct json_val v = {JSON_K_STRING, SLICE_NULL};

    json_write_string(&b, utf8);
    v.raw = canvas_keep(c, &b);
    return v.raw.p ? v : (struct json_val){JSON_K_NULL, SLICE_LIT("null")};
}

struct slice canvas_uuid(struct canvas *c)
{
    char *p = canvas_alloc(c, UUID_TEXT_SIZE);

    if (!p)
        return SLICE_LIT("");
    uuid4_text(p);
    return slice_str(p);
}

struct json_val canvas_index(struct canvas *c, size_t i)
{
    char *p = c->code ? NULL : arena_printf(c->arena, "%zu", i);

    if (!p) {
        (void)canvas_fail(c, -ENOMEM);
        return (struct json_val){JSON_K_NULL, SLICE_LIT("null")};
    }
    return (struct json_val){JSON_K_INT, slice_str(p)};
}

/* ---- effects ---- */

static bool spend(struct canvas *c, size_t bytes)
{
    c->bytes += bytes;
    if (c->bytes > LIMIT_FRAME_BYTES)
        (void)canvas_bad(c, "what it would send is too large");
    return c->code == 0;
}

void effect_message(struct canvas *c, struct slice queue, int priority, struct slice raw)
{
    struct canvas_effects *fx = c->fx;

    if (!spend(c, raw.len + queue.len) ||
        !canvas_grow(c, &fx->messages, fx->n_messages, &fx->cap_messages, sizeof(*fx->messages)))
        return;
    fx->messages[fx->n_messages++] = (struct canvas_message){queue, priority, raw};
}

void effect_child(struct canvas *c, const struct result *r)
{
    if (c->code || !r)
        return;
    if (c->children.len > 0)
        buf_append_str(&c->children, ", ");
    result_write(&c->children, r);
}

void effect_record(struct canvas *c, struct slice id, struct slice record, bool failure)
{
    struct canvas_effects *fx = c->fx;

    if (!spend(c, record.len) ||
        !canvas_grow(c, &fx->records, fx->n_records, &fx->cap_records, sizeof(*fx->records)))
        return;
    fx->records[fx->n_records++] = (struct canvas_record){id, record, failure};
}

void effect_part(struct canvas *c, struct canvas_part part)
{
    struct canvas_effects *fx = c->fx;

    if (!spend(c, part.member.len + part.body.len) ||
        !canvas_grow(c, &fx->parts, fx->n_parts, &fx->cap_parts, sizeof(*fx->parts)))
        return;
    fx->parts[fx->n_parts++] = part;
}

void effect_start(struct canvas *c, struct canvas_start start)
{
    struct canvas_effects *fx = c->fx;

    if (!spend(c, start.saved.len) ||
        !canvas_grow(c, &fx->starts, fx->n_starts, &fx->cap_starts, sizeof(*fx->starts)))
        return;
    fx->starts[fx->n_starts++] = start;
}

void effect_add(struct canvas *c, struct slice group_id)
{
    struct canvas_effects *fx = c->fx;

    if (!canvas_grow(c, &fx->adds, fx->n_adds, &fx->cap_adds, sizeof(*fx->adds)))
        return;
    fx->adds[fx->n_adds++] = (struct canvas_add){group_id, 1};
}

void effect_call(struct canvas *c, const struct canvas_call *call)
{
    struct canvas_effects *fx = c->fx;

    if (!canvas_grow(c, &fx->calls, fx->n_calls, &fx->cap_calls, sizeof(*fx->calls)))
        return;
    fx->calls[fx->n_calls++] = *call;
}

struct canvas_mark canvas_mark(const struct canvas *c)
{
    return (struct canvas_mark){*c->fx, c->children.len, c->bytes};
}

bool canvas_undo(struct canvas *c, const struct canvas_mark *m)
{
    if (c->code != CANVAS_E_BAD)
        return false;
    c->code = 0;
    *c->fx = m->fx;
    c->children.len = m->children;
    c->bytes = m->bytes;
    return true;
}
