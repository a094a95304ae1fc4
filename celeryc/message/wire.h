/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* How bodies are read and written: accept_content, task_serializer, task_compression and the keys of signed messages.
 * Made once from the settings, never changed afterwards, shared by threads. NULL stands for Celery's defaults: JSON,
 * not compressed, nothing else accepted. */

#include "celeryc/base/arena.h"
#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"
#include "celeryc/base/util.h"

#include <stdbool.h>

/* As Celery's settings have it. Names as kombu takes them (json, msgpack, yaml, auth, pickle; compressions with their
 * aliases) or MIME types. */
struct wire_options {
    const char *accept;      /* with commas between; NULL: json */
    const char *serializer;  /* NULL: json */
    const char *compression; /* NULL: none */
    /* Files of PEM text; needed as soon as auth is accepted or written. */
    const char *key, *key_password, *certificate;
    const char *cert_store; /* a folder or a pattern */
    const char *digest;     /* NULL: sha256 */
};

struct wire;

/* Reads the key and the certificates. 0; -ENOMEM; -EINVAL with the setting that is wrong; -Exxx of a file. */
int wire_new(const struct wire_options *o, struct wire **ret_w, struct err *e) WARN_UNUSED;
struct wire *wire_free(struct wire *w);
DEFINE_CLEANUP(struct wire, wire_free)

/* For kombu's messages that are no tasks (remote control). The JSON text of a body, which is not base64 any more, in the
 * arena (it may be the bytes themselves). 0; -ENOMEM; -EINVAL: not accepted, not to be read. */
int wire_read(const struct wire *w, struct arena *a, struct slice content_type, struct slice bytes,
              struct slice *ret_json, struct err *e) WARN_UNUSED;
/* The beginning of an envelope with that body, up to the value of "headers"; never compressed. */
void wire_write_start(struct buf *dst, const struct wire *w, struct slice json);

/* Are there such a serializer and compression, by name or MIME type? What writes a message of them may still refuse. */
bool wire_knows_serializer(const char *name);
bool wire_knows_compression(const char *name);
