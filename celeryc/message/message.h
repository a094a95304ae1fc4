/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A Celery task message: kombu's envelope, protocol 2 and 1 headers, and the body. Bytes to structs, no I/O.
 *
 * Facts: wire-messages chapters 1, 2 and 5. Everything in struct message borrows from the arena or from raw, which
 * must both outlive it. */

#include "celeryc/base/arena.h"
#include "celeryc/base/err.h"
#include "celeryc/message/json.h"
#include "celeryc/message/wire.h"

/* Not a task message that we can run; the text in err names the defect (it becomes the dead-letter reason). */
#define MESSAGE_E_POISON 1

enum tristate {
    TRI_UNSET = -1,
    TRI_NO = 0,
    TRI_YES = 1,
};

struct message {
    struct slice raw;
    const struct wire *wire; /* borrowed; what the body is read with, and a retry written */
    int protocol;            /* 2 or 1 */
    bool refused; /* poison for nothing but a content type that accept_content does not have */

    /* envelope */
    struct json_val headers;    /* object, or NONE */
    struct json_val properties; /* object */
    struct slice content_type;
    struct slice content_encoding;
    struct slice compression; /* headers.compression, p NULL when absent */
    struct json_val body;     /* the JSON string as it stands; message_body decodes it */
    bool body_base64;
    struct slice delivery_tag;
    struct slice exchange;
    struct slice routing_key;
    struct slice reply_to; /* "" when absent */
    int priority;          /* 0..9, as kombu clamps it */
    bool redelivered;

    /* task */
    struct slice task; /* name */
    struct slice id;
    struct slice shadow; /* p NULL when null; likewise below */
    struct slice root_id;
    struct slice parent_id;
    struct slice group;
    struct json_val group_index;
    int64_t retries;
    struct json_val eta_raw; /* verbatim, for a retry */
    struct json_val expires_raw;
    bool has_eta, has_expires;
    bool eta_out_of_range;                  /* why it did not parse */
    int64_t eta_us, expires_us;             /* wall clock, microseconds */
    double time_limit_s, soft_time_limit_s; /* 0 when unset; header timelimit is [hard, soft] */
    enum tristate ignore_result;
    struct slice argsrepr;
    struct slice kwargsrepr;
    struct slice origin;
    int64_t replaced_task_nesting;
};

/* Parses the envelope and headers (for protocol 1 also the body, where its fields are). Checks everything that the
 * worker relies on, so that a message that parses can be run, acked and answered.
 * 0; -ENOMEM; MESSAGE_E_POISON with the reason in e, in which case m->id and m->task are set where they could be
 * read (p NULL otherwise), so that a failure can be stored for a known id. Never reads past raw. */
int message_parse_as(struct arena *a, const struct wire *w, struct slice raw, struct message *ret_m,
                     struct err *e) WARN_UNUSED;

/* With Celery's defaults: JSON only. */
static inline int WARN_UNUSED message_parse(struct arena *a, struct slice raw,
                                            struct message *ret_m, struct err *e)
{
    return message_parse_as(a, NULL, raw, ret_m, e);
}

struct message_body {
    struct json_val args;   /* array */
    struct json_val kwargs; /* object */
    struct json_val embed;  /* object or null */
    struct json_val callbacks, errbacks, chain,
        chord; /* members of embed (protocol 1: of the body); NONE/null unset */
};

/* Decodes base64, compression and serializer into the arena; values of msgpack and YAML become JSON text.
 * 0; -ENOMEM; MESSAGE_E_POISON with the reason (not JSON, not [args, kwargs, embed], wrong signature, ...). A message
 * that was refused can be read all the same, to tell its chord, unless only signed ones count. */
int message_body(struct arena *a, const struct message *m, struct message_body *ret_b,
                 struct err *e) WARN_UNUSED;

/* "args:(1, 2) kwargs:{}": the task's arguments as Python would show them, from the argsrepr and kwargsrepr headers when
 * they are there, else computed. */
void message_write_args_repr(struct buf *dst, const struct message *m,
                             const struct message_body *b);

/* ---- writing ---- */

/* A new task message. Slices with p NULL are written as null (or computed where said). */
struct message_new {
    struct slice task;    /* required */
    struct slice id;      /* required */
    struct slice args;    /* JSON array text, default [] */
    struct slice kwargs;  /* JSON object text, default {} */
    struct slice embed;   /* JSON object text, default the four nulls */
    struct slice queue;   /* routing key, required */
    struct slice root_id; /* default: id */
    struct slice parent_id;
    struct slice group;
    struct slice group_index; /* JSON text */
    struct slice shadow;
    struct slice reply_to; /* default "" */
    struct slice origin;   /* default gen<pid>@<host> */
    int64_t eta_us;        /* 0: none */
    int64_t expires_us;    /* 0: none; also sets property expiration (remaining ms) */
    int64_t now_us;        /* wall clock, for expiration */
    int64_t retries;
    double time_limit_s, soft_time_limit_s;
    int priority;
    enum tristate ignore_result; /* TRI_UNSET writes null, as send_task does in 5.7 */

    /* What only signatures bring. JSON_K_NONE, p NULL, 0: nothing. */
    struct json_val eta_raw, expires_raw; /* strings, verbatim in place of eta_us, expires_us */
    struct json_val time_limit_raw, soft_time_limit_raw;   /* numbers, in place of the doubles */
    struct json_val argsrepr, kwargsrepr, stamped_headers; /* verbatim */
    struct slice stamps;                                   /* JSON object text */
    int64_t replaced_task_nesting;
    struct json_val headers; /* object: merged over the headers, as the option of this name is */
    struct slice properties; /* members of the properties that Celery does not know, "key": value */

    /* How the body is written. */
    const struct wire *wire;              /* NULL: JSON, not compressed */
    struct slice serializer, compression; /* of this message; empty: the wire's */
    struct err *why;                      /* NULL, or where the reason of -EINVAL goes */
};

/* Appends the envelope as kombu writes it (same keys, same order, same separators; fresh delivery_tag).
 * 0, -ENOMEM, -EINVAL args, kwargs, embed or group_index are not the JSON they should be, or the serializer has no
 * form for a value of them. */
int message_write_new(struct buf *dst, const struct message_new *n) WARN_UNUSED;

/* The message that Task.retry publishes (wire-messages 5.1, wire-5.7 section 4): same id, retries+1, eta, parent_id
 * rule, custom headers kept, expiration recomputed. The body is kept byte for byte unless args/kwargs are replaced or
 * the wire of m writes another serializer or compression. What that serializer has no form for is written as JSON:
 * a retry is never lost for it. */
struct message_retry {
    int64_t eta_us;              /* 0: none */
    int64_t now_us;              /* wall clock */
    struct slice args;           /* JSON array text, p NULL: unchanged */
    struct slice kwargs;         /* JSON object text, p NULL: unchanged */
    enum tristate ignore_result; /* the effective value, carried since 5.7 */
    bool keep_parent; /* true: parent_id unchanged even when null (retry_on_worker_lost) */
};

/* 0, -ENOMEM, -EINVAL when the new args or kwargs are no array or object. */
int message_write_retry(struct buf *dst, const struct message *m, const struct message_body *b,
                        const struct message_retry *r) WARN_UNUSED;

/* The headers that are the user's own, as a JSON object: what Celery's request.headers holds. */
void message_write_custom_headers(struct buf *dst, const struct message *m);

/* raw with headers.redelivered and properties.delivery_info.redelivered set, all else byte for byte. Bytes that are
 * no envelope are copied unchanged. 0, -ENOMEM. */
int message_write_redelivered(struct buf *dst, struct slice raw) WARN_UNUSED;

/* How often a message was passed on because whoever had it did not know its task, and its bytes with that number changed.
 * m must have been parsed. 0, -ENOMEM, -EINVAL it has no properties. */
int64_t message_bounces(const struct message *m);
int message_write_bounced(struct buf *dst, const struct message *m, int64_t n) WARN_UNUSED;

/* The priority step (0, 3, 6, 9) of a priority, clamped as kombu does. */
int message_priority_step(int priority);
