/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* RESP2 bytes to replies and back; the only user of hiredis. Private to the folder. */

#include "celeryc/redis/conn.h"

struct redis_reader;

struct redis_reader *redis_reader_new(void); /* NULL when out of memory */
struct redis_reader *redis_reader_free(struct redis_reader *r);
DEFINE_CLEANUP(struct redis_reader, redis_reader_free)

/* Takes bytes from the socket. 0, -ENOMEM, -EMSGSIZE when one reply is over its limit. */
int redis_reader_feed(struct redis_reader *r, const char *p, size_t len) WARN_UNUSED;

/* *ret_reply: the next whole reply, valid until the next call on r; NULL when more bytes are needed.
 * 0, -EPROTO with a text (bad bytes or over a limit). */
int redis_reader_next(struct redis_reader *r, const struct redis_reply **ret_reply,
                      struct err *e) WARN_UNUSED;

void redis_write_command(struct buf *dst, size_t n, const struct slice *argv);
