/* SPDX-License-Identifier: Apache-2.0 */
/* Names of serializers, what of them is accepted, and a body's way through them. JSON goes through untouched; what
 * comes as msgpack or YAML becomes JSON text once, so that everything behind it copies slices as ever. */

#include "celeryc/base/limits.h"
#include "celeryc/message/message_priv.h"
#include "celeryc/message/wire_priv.h"

#include <errno.h>

static const struct {
    const char *name, *type, *encoding;
} contents[] = {
    [CONTENT_JSON] = {"json", "application/json", "utf-8"},
    [CONTENT_MSGPACK] = {"msgpack", "application/x-msgpack", "binary"},
    [CONTENT_YAML] = {"yaml", "application/x-yaml", "utf-8"},
    [CONTENT_AUTH] = {"auth", "application/data", "utf-8"},
    [CONTENT_PICKLE] = {"pickle", "application/x-python-serialize", "binary"},
};

enum content content_find(struct slice name)
{
    for (size_t i = 0; i < ARRAY_SIZE(contents); i++) {
        if (slice_eq_str(name, contents[i].name) || slice_eq_str(name, contents[i].type))
            return (enum content)i;
    }
    return CONTENT_UNKNOWN;
}

const char *content_name(enum content c)
{
    return c < CONTENT_UNKNOWN ? contents[c].name : "unknown";
}

const char *content_type(enum content c)
{
    return c < CONTENT_UNKNOWN ? contents[c].type : "";
}

const char *content_encoding(enum content c)
{
    return c < CONTENT_UNKNOWN ? contents[c].encoding : "";
}

bool wire_knows_serializer(const char *name)
{
    return content_find(slice_str(name)) != CONTENT_UNKNOWN;
}

bool wire_knows_compression(const char *name)
{
    return compression_type(slice_str(name)) != NULL;
}

bool wire_accepts(const struct wire *w, enum content c)
{
    return c < CONTENT_UNKNOWN && (w ? w->accept[c] : c == CONTENT_JSON);
}

bool wire_signed_only(const struct wire *w)
{
    if (!w || !w->accept[CONTENT_AUTH])
        return false;
    for (enum content c = 0; c < CONTENT_UNKNOWN; c++) {
        if (c != CONTENT_AUTH && w->accept[c])
            return false;
    }
    return true;
}

/* ---- making one ---- */

static int read_accept(struct wire *w, const char *names, struct err *e)
{
    for (const char *p = names; *p;) {
        size_t len = strcspn(p, ",");
        enum content c = content_find((struct slice){p, len});

        if (c == CONTENT_UNKNOWN)
            return err_set(e, -EINVAL,
                           "accept_content: %.*s is not a serializer (json, msgpack, yaml, auth)",
                           (int)MIN(len, (size_t)64), p);
        w->accept[c] = c != CONTENT_PICKLE;
        p += len + (p[len] == ',');
    }
    return 0;
}

static int read_writers(struct wire *w, const struct wire_options *o, struct err *e)
{
    if (o->serializer)
        w->serializer = content_find(slice_str(o->serializer));
    if (w->serializer == CONTENT_UNKNOWN || w->serializer == CONTENT_PICKLE)
        return err_set(e, -EINVAL,
                       "task_serializer: %s cannot be written (json, msgpack, yaml, auth can)",
                       o->serializer);
    if (!o->compression || !*o->compression)
        return 0;
    w->compression = compression_type(slice_str(o->compression));
    if (!w->compression)
        return err_set(e, -EINVAL,
                       "task_compression: %s is not a compression (zlib, bzip2, xz, zstd, brotli)",
                       o->compression);
    return 0;
}

int wire_new(const struct wire_options *o, struct wire **ret_w, struct err *e)
{
    CLEANUP(wire_free) struct wire *w = calloc(1, sizeof(*w));
    int r;

    if (!w)
        return -ENOMEM;
    r = read_accept(w, o->accept ? o->accept : "json", e);
    if (r == 0)
        r = read_writers(w, o, e);
    if (r == 0 && (w->accept[CONTENT_AUTH] || w->serializer == CONTENT_AUTH))
        r = auth_new(o, &w->auth, e);
    if (r)
        return r;
    *ret_w = STEAL(w);
    return 0;
}

struct wire *wire_free(struct wire *w)
{
    if (w)
        auth_free(w->auth);
    free(w);
    return NULL;
}

/* ---- writing ---- */

void encoded_deinit(struct encoded *x)
{
    buf_deinit(&x->bytes);
}

static int serialize(enum content c, struct slice json, struct buf *dst, struct err *e)
{
    struct json_val v;

    if (c == CONTENT_JSON) {
        buf_append_slice(dst, json);
        return buf_ok(dst);
    }
    if (json_scan(json, &v, e))
        return -EINVAL;
    return c == CONTENT_MSGPACK ? msgpack_write(dst, v, e) : yaml_write(dst, v, e);
}

static int compress(struct encoded *x, const char *type)
{
    struct buf out = BUF_INIT;
    int r = compression_write(&out, type, buf_slice(&x->bytes));

    if (r) {
        buf_deinit(&out);
        return r;
    }
    buf_deinit(&x->bytes);
    x->bytes = out;
    x->compression = type;
    return 0;
}

static int choose(const struct wire *w, struct slice serializer, struct slice compression,
                  enum content *ret_c, const char **ret_compression, struct err *e)
{
    *ret_c = w ? w->serializer : CONTENT_JSON;
    *ret_compression = w ? w->compression : NULL;
    if (serializer.len)
        *ret_c = content_find(serializer);
    if (compression.len) {
        *ret_compression = compression_type(compression);
        if (!*ret_compression)
            return err_set(e, -EINVAL, "compression %.*s is not supported",
                           (int)MIN(compression.len, (size_t)64), compression.p);
    }
    if (*ret_c == CONTENT_UNKNOWN || *ret_c == CONTENT_PICKLE)
        return err_set(e, -EINVAL, "serializer %.*s is not supported",
                       (int)MIN(serializer.len, (size_t)64), serializer.p);
    if (*ret_c == CONTENT_AUTH && (!w || !w->auth))
        return err_set(e, -EINVAL,
                       "serializer auth needs security_key, security_certificate and "
                       "security_cert_store");
    return 0;
}

int wire_encode(const struct wire *w, struct slice serializer, struct slice compression,
                struct slice json, struct encoded *ret_x, struct err *e)
{
    CLEANUP(encoded_deinit) struct encoded x = {.bytes = BUF_INIT};
    const char *type;
    enum content c;
    int r = choose(w, serializer, compression, &c, &type, e);

    if (r)
        return r;
    if (c == CONTENT_AUTH)
        r = auth_sign(w->auth, &x.bytes, CONTENT_JSON, json, e);
    else
        r = serialize(c, json, &x.bytes, e);
    if (r == 0 && type)
        r = compress(&x, type);
    if (r)
        return r;
    x.content_type = contents[c].type;
    x.content_encoding = contents[c].encoding;
    *ret_x = x;
    x.bytes = (struct buf)BUF_INIT;
    return 0;
}

/* ---- reading ---- */

static int deserialize(struct arena *a, enum content c, struct slice bytes, struct slice *ret_json,
                       struct err *e)
{
    CLEANUP(buf_deinit) struct buf json = BUF_INIT;
    char *text;
    int r;

    if (c == CONTENT_JSON) {
        *ret_json = bytes;
        return 0;
    }
    if (c != CONTENT_MSGPACK && c != CONTENT_YAML)
        return err_set(e, -EINVAL, "content of type %s is not read", content_type(c));
    r = c == CONTENT_MSGPACK ? msgpack_read(&json, bytes, e) : yaml_read(&json, bytes, e);
    if (r)
        return r;
    text = arena_strdup(a, buf_slice(&json));
    if (!text)
        return -ENOMEM;
    *ret_json = (struct slice){text, json.len};
    return 0;
}

int wire_decode(const struct wire *w, struct arena *a, enum content c, struct slice bytes,
                struct slice *ret_json, struct err *e)
{
    int r;

    if (c != CONTENT_AUTH) {
        if (wire_signed_only(w))
            return err_set(e, -EINVAL, "it is not signed");
        return deserialize(a, c, bytes, ret_json, e);
    }
    if (!w || !w->auth)
        return err_set(e, -EINVAL,
                       "signed messages need the settings security_key, "
                       "security_certificate and security_cert_store");
    r = auth_verify(w->auth, a, bytes, &c, &bytes, e);
    return r ? r : deserialize(a, c, bytes, ret_json, e);
}

/* ---- messages that are no tasks ---- */

int wire_read(const struct wire *w, struct arena *a, struct slice content_type, struct slice bytes,
              struct slice *ret_json, struct err *e)
{
    enum content c = content_find(content_type);

    if (!wire_accepts(w, c))
        return err_set(e, -EINVAL, "its content type %.*s is not in accept_content",
                       (int)MIN(content_type.len, (size_t)64), content_type.p);
    return wire_decode(w, a, c, bytes, ret_json, e);
}

void wire_write_start(struct buf *dst, const struct wire *w, struct slice json)
{
    CLEANUP(encoded_deinit) struct encoded x = {.bytes = BUF_INIT};
    struct wire plain = w ? *w : (struct wire){.serializer = CONTENT_JSON};
    int r;

    plain.compression = NULL;
    r = wire_encode(&plain, SLICE_NULL, SLICE_NULL, json, &x, NULL);
    if (r == -EINVAL) /* a value that has no form there: better read by some than by nobody */
        r = wire_encode(&plain, SLICE_LIT("json"), SLICE_NULL, json, &x, NULL);
    if (r)
        dst->failed = true;
    else
        message_write_start(dst, &x);
}
