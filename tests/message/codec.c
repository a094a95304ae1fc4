/* SPDX-License-Identifier: Apache-2.0 */
/* The serializers, compressions and message writers at the end of a pipe, for tests that compare them with Python's.
 *
 * A request is a u32 (little endian) length and that many bytes: a letter for what to do, a NUL-terminated argument,
 * the data. An answer is a u32 length, '+' with the result or '-' with the reason of a refusal.
 *
 *     m, y   msgpack, YAML -> JSON              M, Y   JSON -> msgpack, YAML
 *     z, Z   inflate, deflate; argument: name   b      envelope -> its body as JSON
 *     r      envelope -> its retry              n      envelope -> a new message with that body
 * For r and n the argument is "serializer,compression" of the writer. */

#include "celeryc/message/message_priv.h"
#include "celeryc/message/wire_priv.h"

#include <errno.h>

static const struct wire *reader; /* accepts all that has no keys */

static int from_json(struct slice data, bool yaml, struct buf *out, struct err *e)
{
    struct json_val v;
    int r = json_scan(data, &v, e);

    if (r)
        return r;
    return yaml ? yaml_write(out, v, e) : msgpack_write(out, v, e);
}

static int inflate(struct arena *a, struct slice name, struct slice data, struct buf *out,
                   struct err *e)
{
    struct slice text;
    int r = message_inflate(a, name, data, &text, e);

    if (r == 0)
        buf_append_slice(out, text);
    return r;
}

static void write_body(const struct message_body *b, struct buf *out)
{
    buf_append_char(out, '[');
    buf_append_slice(out, b->args.raw);
    buf_append_str(out, ", ");
    buf_append_slice(out, b->kwargs.raw);
    buf_append_str(out, ", ");
    buf_append_slice(out, b->embed.raw);
    buf_append_char(out, ']');
}

static int write_new(const struct message *m, const struct message_body *b, const struct wire *w,
                     struct buf *out, struct err *e)
{
    const struct message_new n = {
        .task = m->task,
        .id = m->id,
        .args = b->args.raw,
        .kwargs = b->kwargs.raw,
        .embed = b->embed.raw,
        .queue = m->routing_key,
        .wire = w,
        .why = e,
    };

    return message_write_new(out, &n);
}

static int on_message(char op, struct arena *a, const struct wire *w, struct slice raw,
                      struct buf *out, struct err *e)
{
    const struct message_retry retry = {.now_us = 1};
    struct message_body b;
    struct message m;
    int r = message_parse_as(a, reader, raw, &m, e);

    if (r == 0)
        r = message_body(a, &m, &b, e);
    if (r)
        return r;
    if (op == 'b') {
        write_body(&b, out);
        return 0;
    }
    m.wire = w;
    return op == 'n' ? write_new(&m, &b, w, out, e) : message_write_retry(out, &m, &b, &retry);
}

static int with_writer(char op, struct arena *a, const char *arg, struct slice data,
                       struct buf *out, struct err *e)
{
    char serializer[32] = "", *comma;
    CLEANUP(wire_free) struct wire *w = NULL;
    struct wire_options o = {.serializer = serializer};
    int r;

    (void)snprintf(serializer, sizeof(serializer), "%s", arg);
    comma = strchr(serializer, ',');
    if (comma) {
        *comma = '\0';
        o.compression = comma + 1;
    }
    if (!*serializer)
        o.serializer = NULL;
    r = wire_new(&o, &w, e);
    return r ? r : on_message(op, a, w, data, out, e);
}

static int answer(struct arena *a, struct slice request, struct buf *out, struct err *e)
{
    const char *arg = request.p + 1;
    struct slice name = slice_str(arg);
    struct slice data = {arg + name.len + 1, request.len - name.len - 2};

    switch (request.p[0]) {
    case 'm':
        return msgpack_read(out, data, e);
    case 'y':
        return yaml_read(out, data, e);
    case 'M':
    case 'Y':
        return from_json(data, request.p[0] == 'Y', out, e);
    case 'z':
        return inflate(a, name, data, out, e);
    case 'Z':
        return compression_write(out, compression_type(name), data);
    default:
        return with_writer(request.p[0], a, arg, data, out, e);
    }
}

static bool read_exactly(void *dst, size_t len)
{
    return len == 0 || fread(dst, len, 1, stdin) == 1;
}

static bool serve(void)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    CLEANUP(mem_free) char *request = NULL;
    struct err e = ERR_INIT;
    uint32_t len;
    int r;

    if (!read_exactly(&len, sizeof(len)))
        return false;
    request = malloc(len);
    if (!a || !request || !read_exactly(request, len))
        abort();
    r = answer(a, (struct slice){request, len}, &out, &e);
    if (r) {
        buf_reset(&out);
        buf_append_str(&out, err_text(&e, r));
    }
    len = (uint32_t)out.len + 1;
    return fwrite(&len, sizeof(len), 1, stdout) == 1 && putchar(r ? '-' : '+') != EOF &&
           (out.len == 0 || fwrite(out.data, out.len, 1, stdout) == 1) && fflush(stdout) == 0;
}

int main(void)
{
    const struct wire_options o = {.accept = "json,msgpack,yaml"};
    CLEANUP(wire_free) struct wire *w = NULL;

    if (wire_new(&o, &w, NULL))
        return 1;
    reader = w;
    while (serve())
        ;
    return 0;
}
