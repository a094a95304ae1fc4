/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Serializers, compressions and signatures, for the files of this folder. */

#include "celeryc/message/json.h"
#include "celeryc/message/wire.h"

enum content {
    CONTENT_JSON,
    CONTENT_MSGPACK,
    CONTENT_YAML,
    CONTENT_AUTH,   /* application/data: signed */
    CONTENT_PICKLE, /* known, never read */
    CONTENT_UNKNOWN,
};

struct wire {
    bool accept[CONTENT_UNKNOWN];
    enum content serializer;
    const char *compression; /* MIME type; NULL: none */
    struct auth *auth;       /* NULL: no keys */
};

/* By name or MIME type. */
enum content content_find(struct slice name);
const char *content_name(enum content c);
const char *content_type(enum content c);
const char *content_encoding(enum content c);

bool wire_accepts(const struct wire *w, enum content c);
/* Only signed messages count: nothing in a message without a signature may be acted upon. */
bool wire_signed_only(const struct wire *w);

/* ---- serializers: bytes <-> JSON text as json.dumps writes it ---- */

/* Appends JSON text to dst. 0, -ENOMEM, -EINVAL with what is wrong: not of that format, too deep, too big, or a value
 * that Python would refuse. What JSON has no form for gets kombu's typed form (bytes, datetime, date). */
int msgpack_read(struct buf *dst, struct slice src, struct err *e) WARN_UNUSED;
int yaml_read(struct buf *dst, struct slice src, struct err *e) WARN_UNUSED;

/* The other way round. -EINVAL: a value has no form there (an integer over 64 bits, a decimal, ...). */
int msgpack_write(struct buf *dst, struct json_val v, struct err *e) WARN_UNUSED;
int yaml_write(struct buf *dst, struct json_val v, struct err *e) WARN_UNUSED;

/* A typed wrapper {"__type__": ..., "__value__": ...}, exactly those two keys. */
bool json_typed(struct json_val v, struct json_val *ret_type, struct json_val *ret_value);
/* bytes or base64 wrapper: the bytes in the arena. 0, -ENOMEM, -EINVAL. False in ret_is: another wrapper. */
int json_typed_bytes(struct arena *a, struct json_val type, struct json_val value, bool *ret_is,
                     struct slice *ret_s) WARN_UNUSED;
/* Appends the wrapper that kombu writes for bytes. */
void json_write_bytes(struct buf *dst, struct slice bytes);

/* ---- compression ---- */

/* The MIME type of a name, alias or MIME type; NULL: unknown. */
const char *compression_type(struct slice name);
/* Appends; type as compression_type gives it. 0, -ENOMEM. */
int compression_write(struct buf *dst, const char *type, struct slice src) WARN_UNUSED;

/* ---- signatures ---- */

struct auth;
int auth_new(const struct wire_options *o, struct auth **ret_a, struct err *e) WARN_UNUSED;
struct auth *auth_free(struct auth *a);
DEFINE_CLEANUP(struct auth, auth_free)

/* The signed text around a body. 0, -ENOMEM, -EINVAL. */
int auth_sign(const struct auth *a, struct buf *dst, enum content inner, struct slice body,
              struct err *e) WARN_UNUSED;
/* Checks the signature; the body and its content type. 0, -ENOMEM, -EINVAL: refused, with the reason. */
int auth_verify(const struct auth *a, struct arena *arena, struct slice text,
                enum content *ret_inner, struct slice *ret_body, struct err *e) WARN_UNUSED;

/* ---- all of it ---- */

/* A body ready for the envelope, before base64. */
struct encoded {
    struct buf bytes;
    const char *content_type, *content_encoding;
    const char *compression; /* NULL: none */
};

void encoded_deinit(struct encoded *x);
DEFINE_CLEANUP_VALUE(struct encoded, encoded_deinit)

/* serializer, compression: of this message; empty: the wire's. 0, -ENOMEM, -EINVAL with the reason. */
int wire_encode(const struct wire *w, struct slice serializer, struct slice compression,
                struct slice json, struct encoded *ret_x, struct err *e) WARN_UNUSED;
/* The JSON text in the arena of a body that is decompressed already. 0, -ENOMEM, -EINVAL. */
int wire_decode(const struct wire *w, struct arena *a, enum content c, struct slice bytes,
                struct slice *ret_json, struct err *e) WARN_UNUSED;
