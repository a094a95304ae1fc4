/* SPDX-License-Identifier: Apache-2.0 */
/* Compression by kombu's names and aliases, with the levels that Python's modules take by default. */

#include "celeryc/message/wire_priv.h"

#include <brotli/encode.h>
#include <bzlib.h>
#include <errno.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

const char *compression_type(struct slice name)
{
    static const char *const known[][2] = {
        {"zlib", "application/x-gzip"},     {"gzip", "application/x-gzip"},
        {"bzip2", "application/x-bz2"},     {"bzip", "application/x-bz2"},
        {"lzma", "application/x-lzma"},     {"xz", "application/x-lzma"},
        {"zstd", "application/zstd"},       {"zstandard", "application/zstd"},
        {"brotli", "application/x-brotli"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (slice_eq_str(name, known[i][0]) || slice_eq_str(name, known[i][1]))
            return known[i][1];
    }
    return NULL;
}

/* Each of these has room for the worst case: 0 and the length, or -ENOMEM. */

static int deflate_zlib(char *dst, size_t room, struct slice src, size_t *ret_len)
{
    uLongf len = room;

    if (compress2((Bytef *)dst, &len, (const Bytef *)src.p, src.len, Z_DEFAULT_COMPRESSION) != Z_OK)
        return -ENOMEM;
    *ret_len = len;
    return 0;
}

static int deflate_bzip2(char *dst, size_t room, struct slice src, size_t *ret_len)
{
    unsigned len = (unsigned)room;

    if (room > UINT32_MAX || BZ2_bzBuffToBuffCompress(dst, &len, (char *)(uintptr_t)src.p,
                                                      (unsigned)src.len, 9, 0, 0) != BZ_OK)
        return -ENOMEM;
    *ret_len = len;
    return 0;
}

static int deflate_lzma(char *dst, size_t room, struct slice src, size_t *ret_len)
{
    *ret_len = 0;
    return lzma_easy_buffer_encode(LZMA_PRESET_DEFAULT, LZMA_CHECK_CRC64, NULL,
                                   (const uint8_t *)src.p, src.len, (uint8_t *)dst, ret_len,
                                   room) == LZMA_OK
               ? 0
               : -ENOMEM;
}

static int deflate_zstd(char *dst, size_t room, struct slice src, size_t *ret_len)
{
    size_t n = ZSTD_compress(dst, room, src.p, src.len, ZSTD_CLEVEL_DEFAULT);

    if (ZSTD_isError(n))
        return -ENOMEM;
    *ret_len = n;
    return 0;
}

static int deflate_brotli(char *dst, size_t room, struct slice src, size_t *ret_len)
{
    *ret_len = room;
    return BrotliEncoderCompress(BROTLI_DEFAULT_QUALITY, BROTLI_DEFAULT_WINDOW, BROTLI_MODE_GENERIC,
                                 src.len, (const uint8_t *)src.p, ret_len, (uint8_t *)dst)
               ? 0
               : -ENOMEM;
}

int compression_write(struct buf *dst, const char *type, struct slice src)
{
    static const struct {
        const char *type;
        int (*fn)(char *dst, size_t room, struct slice src, size_t *ret_len);
    } known[] = {
        {"application/x-gzip", deflate_zlib}, {"application/x-bz2", deflate_bzip2},
        {"application/x-lzma", deflate_lzma}, {"application/x-brotli", deflate_brotli},
        {"application/zstd", deflate_zstd},
    };

    size_t room = src.len + src.len / 8 + 1024, len;

    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (!str_eq(type, known[i].type))
            continue;
        buf_reserve(dst, room);
        if (dst->failed || known[i].fn(dst->data + dst->len, room, src, &len))
            return -ENOMEM;
        dst->len += len;
        dst->data[dst->len] = '\0';
        return 0;
    }
    return -EINVAL;
}
