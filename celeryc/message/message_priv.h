/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the message files of this folder share. */

#include "celeryc/message/message.h"

/* The decoded text of the body (base64, compression, JSON), scanned. 0, -ENOMEM, MESSAGE_E_POISON. */
int message_body_value(struct arena *a, const struct message *m, struct json_val *ret_v,
                       struct err *e) WARN_UNUSED;

/* Reads the task's fields out of a headers object or a protocol 1 body, over what m holds already. protocol1: fields
 * that such a body does not carry over are passed by. Goes on after a defect, so that id and task are found if they
 * are there; gives the first one. 0, -ENOMEM, MESSAGE_E_POISON. */
struct json_tape;
int message_read_fields(struct arena *a, const struct json_tape *t, struct json_val object,
                        bool protocol1, struct message *m, struct err *e) WARN_UNUSED;

/* True for a compression name or MIME type that message_inflate knows. */
bool message_inflate_known(struct slice name);

/* Decompresses into the arena, at most LIMIT_MESSAGE_BYTES. 0; -ENOMEM; -EINVAL damaged, too big or an unknown
 * compression, with the text in e. */
int message_inflate(struct arena *a, struct slice name, struct slice src, struct slice *ret_s,
                    struct err *e) WARN_UNUSED;

/* The tail that every envelope ends with: "delivery_info", "priority" (raw JSON), "body_encoding", "delivery_tag". */
void message_write_routing(struct buf *dst, struct slice queue, struct slice priority);

/* An envelope's beginning, "body", "content-encoding", "content-type", up to the value of "headers". */
struct encoded;
void message_write_start(struct buf *dst, const struct encoded *x);

/* The header compression, last of the headers; nothing without one. */
void message_write_compression(struct buf *dst, const struct encoded *x);

/* "gen<pid>@<host>", as a JSON string. */
void message_write_origin(struct buf *dst);

/* The property expiration, as kombu computes it from a deadline. */
void message_write_expiration(struct buf *dst, int64_t expires_us, int64_t now_us);
