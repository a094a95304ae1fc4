/* SPDX-License-Identifier: Apache-2.0 */
/* The encoded form of an outcome, as it travels from a child to the master (little endian):
 *
 *     u8 version | u8 kind | u8 flags | f64 countdown | u64 runtime_ns | record | repr | traceback |
 *     u32 n_messages | n_messages x ( queue | u32 priority | raw ) |
 *     u32 n_records  | n_records  x ( task_id | record | u8 failure ) |
 *     u32 n_parts    | n_parts    x ( group_id | task_id | score | member | body | u8 failed ) |
 *     u32 n_starts   | n_starts   x ( group_id | u64 size | saved ) |
 *     u32 n_adds     | n_adds     x ( group_id | u64 n )
 *
 * A text is a u32 length (0xffffffff: NULL) and its bytes. Master and child are one program: a change of layout takes
 * a new version, others are refused. */

#include "celeryc/task/cursor.h"
#include "celeryc/task/run.h"

#include <errno.h>

#define OUTCOME_VERSION 2

enum outcome_flag {
    FLAG_REQUEUE = 1,
    FLAG_STORE = 2,
};

/* The fewest bytes that one entry of each list takes, which bounds a count before anything is allocated. */
enum entry_size {
    MESSAGE_SIZE = 12,
    RECORD_SIZE = 9,
    PART_SIZE = 21,
    START_SIZE = 16,
    ADD_SIZE = 12,
};

static void put_lists(const struct outcome *o, struct buf *dst)
{
    buf_append_u32le(dst, (uint32_t)o->n_records);
    for (size_t i = 0; i < o->n_records; i++) {
        cursor_put_slice(dst, o->records[i].task_id);
        cursor_put_slice(dst, o->records[i].record);
        buf_append_char(dst, (char)o->records[i].failure);
    }
    buf_append_u32le(dst, (uint32_t)o->n_parts);
    for (size_t i = 0; i < o->n_parts; i++) {
        cursor_put_slice(dst, o->parts[i].group_id);
        cursor_put_slice(dst, o->parts[i].task_id);
        cursor_put_slice(dst, o->parts[i].score);
        cursor_put_slice(dst, o->parts[i].member);
        cursor_put_slice(dst, o->parts[i].body);
        buf_append_char(dst, (char)o->parts[i].failed);
    }
    buf_append_u32le(dst, (uint32_t)o->n_starts);
    for (size_t i = 0; i < o->n_starts; i++) {
        cursor_put_slice(dst, o->starts[i].group_id);
        buf_append_u64le(dst, (uint64_t)o->starts[i].size);
        cursor_put_slice(dst, o->starts[i].saved);
    }
    buf_append_u32le(dst, (uint32_t)o->n_adds);
    for (size_t i = 0; i < o->n_adds; i++) {
        cursor_put_slice(dst, o->adds[i].group_id);
        buf_append_u64le(dst, (uint64_t)o->adds[i].n);
    }
}

int outcome_encode(const struct outcome *o, struct buf *dst)
{
    buf_append_char(dst, OUTCOME_VERSION);
    buf_append_char(dst, (char)o->kind);
    buf_append_char(dst, (char)((o->requeue ? FLAG_REQUEUE : 0) | (o->store ? FLAG_STORE : 0)));
    cursor_put_f64(dst, o->countdown);
    buf_append_u64le(dst, (uint64_t)o->runtime_ns);
    cursor_put_slice(dst, o->record);
    cursor_put_slice(dst, o->repr);
    cursor_put_slice(dst, o->traceback);
    buf_append_u32le(dst, (uint32_t)o->n_messages);
    for (size_t i = 0; i < o->n_messages; i++) {
        cursor_put_slice(dst, o->messages[i].queue);
        buf_append_u32le(dst, (uint32_t)o->messages[i].priority);
        cursor_put_slice(dst, o->messages[i].raw);
    }
    put_lists(o, dst);
    return buf_ok(dst);
}

/* The count of a list and room for it; NULL for an empty or bad one. */
static void *get_list(struct arena *a, struct cursor *c, size_t least, size_t size, size_t *ret_n,
                      bool *no_memory)
{
    uint32_t n = cursor_u32(c);
    *ret_n = 0;
    if (c->bad || n > c->left / least) {
        c->bad = true;
        return NULL;
    }
    if (n == 0)
        return NULL;
    void *list = arena_alloc_array(a, n, size);
    if (!list)
        *no_memory = c->bad = true;
    else
        *ret_n = n;
    return list;
}

static void get_chords(struct arena *a, struct cursor *c, struct outcome *o, bool *no_memory)
{
    o->parts = get_list(a, c, PART_SIZE, sizeof *o->parts, &o->n_parts, no_memory);
    for (size_t i = 0; i < o->n_parts; i++) {
        o->parts[i].group_id = cursor_slice(c);
        o->parts[i].task_id = cursor_slice(c);
        o->parts[i].score = cursor_slice(c);
        o->parts[i].member = cursor_slice(c);
        o->parts[i].body = cursor_slice(c);
        o->parts[i].failed = cursor_u8(c);
    }
    o->starts = get_list(a, c, START_SIZE, sizeof *o->starts, &o->n_starts, no_memory);
    for (size_t i = 0; i < o->n_starts; i++) {
        o->starts[i].group_id = cursor_slice(c);
        o->starts[i].size = (int64_t)cursor_u64(c);
        o->starts[i].saved = cursor_slice(c);
    }
    o->adds = get_list(a, c, ADD_SIZE, sizeof *o->adds, &o->n_adds, no_memory);
    for (size_t i = 0; i < o->n_adds; i++) {
        o->adds[i].group_id = cursor_slice(c);
        o->adds[i].n = (int64_t)cursor_u64(c);
    }
}

static void get_lists(struct arena *a, struct cursor *c, struct outcome *o, bool *no_memory)
{
    o->messages = get_list(a, c, MESSAGE_SIZE, sizeof *o->messages, &o->n_messages, no_memory);
    for (size_t i = 0; i < o->n_messages; i++) {
        o->messages[i].queue = cursor_slice(c);
        o->messages[i].priority = (int)cursor_u32(c);
        o->messages[i].raw = cursor_slice(c);
    }
    o->records = get_list(a, c, RECORD_SIZE, sizeof *o->records, &o->n_records, no_memory);
    for (size_t i = 0; i < o->n_records; i++) {
        o->records[i].task_id = cursor_slice(c);
        o->records[i].record = cursor_slice(c);
        o->records[i].failure = cursor_u8(c);
    }
    get_chords(a, c, o, no_memory);
}

int outcome_decode(struct arena *a, struct slice bytes, struct outcome *ret_o, struct err *e)
{
    struct cursor c = cursor_init(bytes);
    uint8_t version = cursor_u8(&c), kind = cursor_u8(&c), flags = cursor_u8(&c);
    bool no_memory = false;
    if (c.bad || version != OUTCOME_VERSION || kind < OUTCOME_SUCCESS || kind > OUTCOME_REJECT)
        return err_set(e, -EINVAL, "outcome: version %u of kind %u is not readable", version, kind);
    struct outcome o = {.kind = kind, .requeue = flags & FLAG_REQUEUE, .store = flags & FLAG_STORE};
    o.countdown = cursor_f64(&c);
    o.runtime_ns = (int64_t)cursor_u64(&c);
    o.record = cursor_slice(&c);
    o.repr = cursor_slice(&c);
    o.traceback = cursor_slice(&c);
    get_lists(a, &c, &o, &no_memory);
    if (no_memory)
        return -ENOMEM;
    if (c.bad || c.left > 0)
        return err_set(e, -EINVAL, "outcome: wrong length");
    *ret_o = o;
    return 0;
}
