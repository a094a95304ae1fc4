/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as msgpack, YAML, JSON or a signed body, by the first of them. What is read is JSON that the scanner takes;
 * what of it can be written again is read as the same; a body is signed and found good, and without a signature never. */

#include "../message/keys.h"
#include "celeryc/message/wire_priv.h"
#include "fuzz.h"

#include <errno.h>

typedef int read_fn(struct buf *dst, struct slice src, struct err *e);
typedef int write_fn(struct buf *dst, struct json_val v, struct err *e);

static struct json_val scan(const struct buf *text)
{
    struct json_val v = {0};
    struct err e = ERR_INIT;

    if (json_scan(buf_slice(text), &v, &e)) {
        (void)fprintf(stderr, "%s\n%s\n", e.text, text->data ? text->data : "");
        abort();
    }
    return v;
}

/* Writes v and reads it back; false when it has no form there. */
static bool cycle(struct json_val v, read_fn *read, write_fn *write, struct buf *ret_json)
{
    CLEANUP(buf_deinit) struct buf bytes = BUF_INIT;
    struct err e = ERR_INIT;
    int r = write(&bytes, v, &e);

    ASSERT(r == 0 || (r == -EINVAL && e.text[0]));
    if (r)
        return false;
    r = read(ret_json, buf_slice(&bytes), &e);
    /* A value that is a damaged typed one for Python becomes an ordinary mapping when it is written. */
    if (r) {
        (void)fprintf(stderr, "%s\n%.*s\n", e.text, (int)bytes.len, bytes.data);
        abort();
    }
    return true;
}

/* Once around makes values plain (typed ones in their own form), a second time changes nothing. */
static void check_cycle(struct json_val v, read_fn *read, write_fn *write)
{
    CLEANUP(buf_deinit) struct buf once = BUF_INIT;
    CLEANUP(buf_deinit) struct buf twice = BUF_INIT;

    if (!cycle(v, read, write, &once))
        return;
    ASSERT(cycle(scan(&once), read, write, &twice));
    ASSERT(slice_eq(buf_slice(&once), buf_slice(&twice)));
}

static void check_read(struct slice data, read_fn *read, write_fn *write)
{
    CLEANUP(buf_deinit) struct buf json = BUF_INIT;
    struct err e = ERR_INIT;
    int r = read(&json, data, &e);

    ASSERT(r == 0 || (r == -EINVAL && e.text[0]));
    if (r == 0)
        check_cycle(scan(&json), read, write);
}

static void check_json(struct slice data)
{
    struct json_val v, type, value;
    struct slice bytes;
    bool is;

    if (json_scan(data, &v, NULL))
        return;
    check_cycle(v, msgpack_read, msgpack_write);
    check_cycle(v, yaml_read, yaml_write);
    if (json_typed(v, &type, &value)) {
        CLEANUP(arena_free) struct arena *a = arena_new();
        (void)!json_typed_bytes(a, type, value, &is, &bytes);
    }
}

static struct auth *make_auth(void)
{
    char folder[] = "/tmp/fuzz-auth-XXXXXX", key[64], store[64], cert[80];
    struct auth *a = NULL;

    ASSERT(mkdtemp(folder));
    keys_make(folder, "fuzz", 10, NULL);
    (void)snprintf(key, sizeof(key), "%s/fuzz.key", folder);
    (void)snprintf(store, sizeof(store), "%s/store", folder);
    (void)snprintf(cert, sizeof(cert), "%s/fuzz.crt", store);
    const struct wire_options o = {.key = key, .certificate = cert, .cert_store = store};
    ASSERT(auth_new(&o, &a, NULL) == 0);
    ASSERT(remove(key) == 0 && remove(cert) == 0 && remove(store) == 0 && remove(folder) == 0);
    return a;
}

static void check_auth(struct slice data)
{
    static struct auth *auth; /* kept for the whole process */
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    struct err e = ERR_INIT;
    struct slice body;
    enum content inner;

    if (!auth)
        auth = make_auth();
    ASSERT(auth_verify(auth, a, data, &inner, &body, &e) == -EINVAL && e.text[0]);
    ASSERT(auth_sign(auth, &text, CONTENT_JSON, data, &e) == 0);
    ASSERT(auth_verify(auth, a, buf_slice(&text), &inner, &body, &e) == 0);
    ASSERT(inner == CONTENT_JSON && slice_eq(body, data));
    if (data.len == 0)
        return;
    /* One bit of the text changed: refused, or base64 that stands for the same. */
    text.data[(unsigned char)data.p[0] * 31u % text.len] ^= 1 << ((unsigned char)data.p[0] % 7);
    if (auth_verify(auth, a, buf_slice(&text), &inner, &body, &e) == 0)
        ASSERT(slice_eq(body, data));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice rest = {(const char *)data + 1, size - 1};

    if (size == 0)
        return 0;
    switch (data[0]) {
    case 'm':
        check_read(rest, msgpack_read, msgpack_write);
        break;
    case 'y':
        check_read(rest, yaml_read, yaml_write);
        break;
    case 'j':
        check_json(rest);
        break;
    case 'a':
        check_auth(rest);
        break;
    default:
        break;
    }
    return 0;
}
