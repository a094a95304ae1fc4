/* SPDX-License-Identifier: Apache-2.0 */
/* The encoded form of an outcome, as it travels from a child to the master (little endian):
 *
 *     u8 version | u8 kind | u8 flags | f64 countdown | u64 runtime_ns | record | repr | traceback |
 *     u32 n_messages | n_messages x ( queue | u32 priority | raw )
 *
 * A text is a u32 length (0xffffffff: NULL) and its bytes. Master and child are one program: a change of layout takes
 * a new version, others are refused. */

#include "celeryc/task/cursor.h"
#include "celeryc/task/run.h"

#include <errno.h>

#define OUTCOME_VERSION 1

enum outcome_flag {
    FLAG_REQUEUE = 1,
    FLAG_STORE = 2,
};

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
    return buf_ok(dst);
}

int outcome_decode(struct arena *a, struct slice bytes, struct outcome *ret_o, struct err *e)
{
    struct cursor c = cursor_init(bytes);
    uint8_t version = cursor_u8(&c), kind = cursor_u8(&c), flags = cursor_u8(&c);
    if (c.bad || version != OUTCOME_VERSION || kind < OUTCOME_SUCCESS || kind > OUTCOME_REJECT)
        return err_set(e, -EINVAL, "outcome: version %u of kind %u is not readable", version, kind);
    struct outcome o = {.kind = kind, .requeue = flags & FLAG_REQUEUE, .store = flags & FLAG_STORE};
    o.countdown = cursor_f64(&c);
    o.runtime_ns = (int64_t)cursor_u64(&c);
    o.record = cursor_slice(&c);
    o.repr = cursor_slice(&c);
    o.traceback = cursor_slice(&c);
    uint32_t n = cursor_u32(&c);
    /* The shortest message is 12 bytes, which bounds the count before anything is allocated. */
    if (c.bad || n > c.left / 12)
        return err_set(e, -EINVAL, "outcome: cut short");
    if (n > 0 && !(o.messages = arena_alloc_array(a, n, sizeof *o.messages)))
        return -ENOMEM;
    o.n_messages = n;
    for (uint32_t i = 0; i < n; i++) {
        o.messages[i].queue = cursor_slice(&c);
        o.messages[i].priority = (int)cursor_u32(&c);
        o.messages[i].raw = cursor_slice(&c);
    }
    if (c.bad || c.left > 0)
        return err_set(e, -EINVAL, "outcome: wrong length");
    *ret_o = o;
    return 0;
}
