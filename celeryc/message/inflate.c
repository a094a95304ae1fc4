/* SPDX-License-Identifier: Apache-2.0 */
/* Decompression of bodies and of stored results. kombu's names: "application/x-gzip" is a zlib stream (not gzip), and
 * aliases are taken as well as MIME types. Output is bounded, so that a small message cannot take all memory. */

#include "celeryc/base/limits.h"
#include "celeryc/message/message_priv.h"

#include <errno.h>
#include <zlib.h>
#include <zstd.h>

#define CHUNK_BYTES (64u << 10)

static int failed(struct err *e, const char *what)
{
    return err_set(e, -EINVAL, "%s", what);
}

/* Makes room for one more chunk. */
static int grow(struct buf *out, struct err *e)
{
    if (out->len > LIMIT_MESSAGE_BYTES)
        return failed(e, "the decompressed data is too big");
    buf_reserve(out, CHUNK_BYTES);
    return buf_ok(out);
}

static int run_zlib(z_stream *z, struct buf *out, struct err *e)
{
    for (;;) {
        int r = grow(out, e), status;

        if (r)
            return r;
        z->next_out = (Bytef *)out->data + out->len;
        z->avail_out = CHUNK_BYTES;
        status = inflate(z, Z_NO_FLUSH);
        out->len += CHUNK_BYTES - z->avail_out;
        if (status == Z_STREAM_END)
            return 0;
        if (status == Z_MEM_ERROR)
            return -ENOMEM;
        if (status != Z_OK)
            return failed(e, "damaged zlib data");
    }
}

static int inflate_zlib(struct buf *out, struct slice src, struct err *e)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)src.p, .avail_in = (uInt)src.len};
    int r;

    if (src.len > LIMIT_MESSAGE_BYTES)
        return failed(e, "the compressed data is too big");
    if (inflateInit(&z) != Z_OK)
        return -ENOMEM;
    r = run_zlib(&z, out, e);
    (void)inflateEnd(&z);
    return r;
}

static int run_zstd(ZSTD_DStream *z, struct buf *out, struct slice src, struct err *e)
{
    ZSTD_inBuffer in = {src.p, src.len, 0};
    size_t left = 1;

    while (left || in.pos < in.size) {
        ZSTD_outBuffer chunk = {NULL, CHUNK_BYTES, 0};
        size_t before = in.pos;
        int r = grow(out, e);

        if (r)
            return r;
        chunk.dst = out->data + out->len;
        left = ZSTD_decompressStream(z, &chunk, &in);
        if (ZSTD_isError(left))
            return failed(e, "damaged zstd data");
        out->len += chunk.pos;
        if (left && in.pos == in.size && in.pos == before && chunk.pos == 0)
            return failed(e, "zstd data ends early");
    }
    return 0;
}

static int inflate_zstd(struct buf *out, struct slice src, struct err *e)
{
    ZSTD_DStream *z = ZSTD_createDStream();
    int r;

    if (!z)
        return -ENOMEM;
    r = run_zstd(z, out, src, e);
    (void)ZSTD_freeDStream(z);
    return r;
}

typedef int inflate_fn(struct buf *out, struct slice src, struct err *e);

static inflate_fn *find_inflater(struct slice name)
{
    static const struct {
        const char *name;
        inflate_fn *fn;
    } known[] = {
        {"application/x-gzip", inflate_zlib}, {"gzip", inflate_zlib}, {"zlib", inflate_zlib},
        {"application/zstd", inflate_zstd},   {"zstd", inflate_zstd}, {"zstandard", inflate_zstd},
    };

    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (slice_eq_str(name, known[i].name))
            return known[i].fn;
    }
    return NULL;
}

bool message_inflate_known(struct slice name)
{
    return find_inflater(name) != NULL;
}

int message_inflate(struct arena *a, struct slice name, struct slice src, struct slice *ret_s,
                    struct err *e)
{
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    inflate_fn *fn = find_inflater(name);
    char *text;
    int r;

    if (!fn)
        return err_set(e, -EINVAL, "compression %.*s is not supported",
                       (int)MIN(name.len, (size_t)64), name.p);
    r = fn(&out, src, e);
    if (r)
        return r;
    if (out.len > LIMIT_MESSAGE_BYTES)
        return failed(e, "the decompressed data is too big");
    text = arena_strdup(a, buf_slice(&out));
    if (!text)
        return -ENOMEM;
    *ret_s = (struct slice){text, out.len};
    return 0;
}
