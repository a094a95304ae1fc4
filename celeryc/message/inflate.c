/* SPDX-License-Identifier: Apache-2.0 */
/* Decompression of bodies and of stored results. kombu's names: "application/x-gzip" is a zlib stream (not gzip), and
 * aliases are taken as well as MIME types. Output is bounded, so that a small message cannot take all memory. */

#include "celeryc/base/limits.h"
#include "celeryc/message/message_priv.h"
#include "celeryc/message/wire_priv.h"

#include <brotli/decode.h>
#include <bzlib.h>
#include <errno.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#define CHUNK_BYTES   (64u << 10)
#define BZIP2_STREAMS 10000
#define LZMA_MEMORY   (128u << 20) /* the biggest preset of xz needs 65 MB */

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

/* Like Python's bz2 module: streams one behind the other are one text, what follows them is ignored. */
static int run_bzip2(bz_stream *z, struct buf *out, struct err *e)
{
    for (;;) {
        unsigned before = z->avail_in;
        int r = grow(out, e), status;

        if (r)
            return r;
        z->next_out = out->data + out->len;
        z->avail_out = CHUNK_BYTES;
        status = BZ2_bzDecompress(z);
        out->len += CHUNK_BYTES - z->avail_out;
        if (status == BZ_STREAM_END)
            return 0;
        if (status == BZ_MEM_ERROR)
            return -ENOMEM;
        if (status != BZ_OK || (z->avail_in == before && z->avail_out))
            return failed(e, "damaged bzip2 data");
    }
}

static int inflate_bzip2(struct buf *out, struct slice src, struct err *e)
{
    size_t streams = 0;

    if (src.len > LIMIT_MESSAGE_BYTES)
        return failed(e, "the compressed data is too big");
    do {
        bz_stream z = {.next_in = (char *)(uintptr_t)src.p, .avail_in = (unsigned)src.len};
        int r;

        if (BZ2_bzDecompressInit(&z, 0, 0) != BZ_OK)
            return -ENOMEM;
        r = run_bzip2(&z, out, e);
        src = (struct slice){z.next_in, z.avail_in};
        (void)BZ2_bzDecompressEnd(&z);
        if (r)
            return r;
        if (++streams > BZIP2_STREAMS)
            return failed(e, "bzip2 data of too many pieces");
    } while (src.len >= 4 && memcmp(src.p, "BZh", 3) == 0);
    return 0;
}

/* .xz and the older .lzma, as Python's lzma module tells them apart. */
static int run_lzma(lzma_stream *z, struct buf *out, struct err *e)
{
    for (;;) {
        int r = grow(out, e);
        lzma_ret status;

        if (r)
            return r;
        z->next_out = (uint8_t *)out->data + out->len;
        z->avail_out = CHUNK_BYTES;
        status = lzma_code(z, LZMA_FINISH);
        out->len += CHUNK_BYTES - z->avail_out;
        if (status == LZMA_STREAM_END)
            return 0;
        if (status == LZMA_MEM_ERROR)
            return -ENOMEM;
        if (status == LZMA_MEMLIMIT_ERROR)
            return failed(e, "xz data that needs too much memory");
        if (status != LZMA_OK)
            return failed(e, "damaged xz data");
    }
}

static int inflate_lzma(struct buf *out, struct slice src, struct err *e)
{
    lzma_stream z = LZMA_STREAM_INIT;
    int r;

    if (lzma_auto_decoder(&z, LZMA_MEMORY, LZMA_CONCATENATED) != LZMA_OK)
        return -ENOMEM;
    z.next_in = (const uint8_t *)src.p;
    z.avail_in = src.len;
    r = run_lzma(&z, out, e);
    lzma_end(&z);
    return r;
}

static int run_brotli(BrotliDecoderState *z, struct buf *out, struct slice src, struct err *e)
{
    const uint8_t *in = (const uint8_t *)src.p;
    size_t in_len = src.len;

    for (;;) {
        BrotliDecoderResult status;
        size_t room = CHUNK_BYTES;
        uint8_t *at;
        int r = grow(out, e);

        if (r)
            return r;
        at = (uint8_t *)out->data + out->len;
        status = BrotliDecoderDecompressStream(z, &in_len, &in, &room, &at, NULL);
        out->len += CHUNK_BYTES - room;
        if (status == BROTLI_DECODER_RESULT_SUCCESS)
            return in_len ? failed(e, "bytes behind the brotli data") : 0;
        if (status != BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT)
            return failed(e, "damaged brotli data");
    }
}

static int inflate_brotli(struct buf *out, struct slice src, struct err *e)
{
    BrotliDecoderState *z = BrotliDecoderCreateInstance(NULL, NULL, NULL);
    int r;

    if (!z)
        return -ENOMEM;
    r = run_brotli(z, out, src, e);
    BrotliDecoderDestroyInstance(z);
    return r;
}

typedef int inflate_fn(struct buf *out, struct slice src, struct err *e);

static inflate_fn *find_inflater(struct slice name)
{
    static const struct {
        const char *type;
        inflate_fn *fn;
    } known[] = {
        {"application/x-gzip", inflate_zlib}, {"application/x-bz2", inflate_bzip2},
        {"application/x-lzma", inflate_lzma}, {"application/x-brotli", inflate_brotli},
        {"application/zstd", inflate_zstd},
    };

    const char *type = compression_type(name);

    for (size_t i = 0; type && i < ARRAY_SIZE(known); i++) {
        if (str_eq(type, known[i].type))
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
