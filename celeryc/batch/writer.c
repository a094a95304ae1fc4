/* SPDX-License-Identifier: Apache-2.0 */
/* The writer of batch files: NDJSON of one batch in memory, compressed behind its header at the end.
 *
 * Owns the text of the current batch and a compression context that is used again for the next one. A record that is
 * refused must leave no trace in the text. */

#include "celeryc/base/limits.h"
#include "celeryc/batch/batch_priv.h"

#include <errno.h>
#include <zstd.h>

#define LEVEL 3

struct batch_writer {
    struct buf text;
    size_t n;
    ZSTD_CCtx *zstd;
};

struct batch_writer *batch_writer_new(void)
{
    struct batch_writer *w = calloc(1, sizeof(*w));

    if (!w)
        return NULL;
    w->zstd = ZSTD_createCCtx();
    if (!w->zstd)
        return batch_writer_free(w);
    return w;
}

struct batch_writer *batch_writer_free(struct batch_writer *w)
{
    if (!w)
        return NULL;
    ZSTD_freeCCtx(w->zstd);
    buf_deinit(&w->text);
    free(w);
    return NULL;
}

size_t batch_writer_len(const struct batch_writer *w)
{
    return w->n;
}

static const char *bool_word(struct slice s)
{
    if (slice_eq_str(s, "t") || slice_eq_str(s, "true") || slice_eq_str(s, "1"))
        return "true";
    if (slice_eq_str(s, "f") || slice_eq_str(s, "false") || slice_eq_str(s, "0"))
        return "false";
    return NULL;
}

static int add_field(struct buf *dst, struct slice field, enum batch_kind kind)
{
    const char *word = kind == BATCH_BOOL && field.p ? bool_word(field) : NULL;

    if (!field.p)
        buf_append_str(dst, "null");
    else if (word)
        buf_append_str(dst, word);
    else if (kind == BATCH_NUMBER && field.len && text_number(field.p, field.len) == field.len)
        buf_append_slice(dst, field);
    else if (!text_valid(field))
        return -EILSEQ;
    else
        text_write(dst, field);
    return 0;
}

int batch_writer_add(struct batch_writer *w, const struct slice *fields,
                     const enum batch_kind *kinds, size_t n)
{
    size_t start = w->text.len;
    int code = 0;

    for (size_t i = 0; i < n && !code; i++) {
        buf_append_char(&w->text, i ? ',' : '[');
        code = add_field(&w->text, fields[i], kinds ? kinds[i] : BATCH_TEXT);
        if (!code && w->text.len - start > LIMIT_BATCH_LINE)
            code = -E2BIG;
    }
    buf_append(&w->text, "]\n", 2);
    if (!code)
        code = buf_ok(&w->text);
    if (code) {
        w->text.len = start;
        return code;
    }
    w->n++;
    return 0;
}

static int compress(ZSTD_CCtx *z, struct slice bytes, ZSTD_EndDirective end, struct buf *dst)
{
    ZSTD_inBuffer in = {bytes.p, bytes.len, 0};
    size_t left;

    do {
        ZSTD_outBuffer out;

        buf_reserve(dst, ZSTD_CStreamOutSize());
        if (dst->failed)
            return -ENOMEM;
        out = (ZSTD_outBuffer){dst->data + dst->len, dst->cap - dst->len - 1, 0};
        left = ZSTD_compressStream2(z, &out, &in, end);
        if (ZSTD_isError(left))
            return -ENOMEM; /* nothing else can fail with these parameters */
        dst->len += out.pos;
        dst->data[dst->len] = '\0';
    } while (end == ZSTD_e_end ? left != 0 : in.pos < in.size);
    return 0;
}

int batch_writer_finish(struct batch_writer *w, const struct batch_header *h, struct buf *dst,
                        char sha256[65])
{
    CLEANUP(buf_deinit) struct buf head = BUF_INIT;
    size_t start = dst->len;
    int code;

    header_write(&head, h, w->n);
    if (buf_ok(&head) || buf_ok(dst))
        return -ENOMEM;
    ZSTD_CCtx_reset(w->zstd, ZSTD_reset_session_only);
    ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_compressionLevel, LEVEL);
    ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_checksumFlag, 1);
    ZSTD_CCtx_setPledgedSrcSize(w->zstd, head.len + w->text.len);
    code = compress(w->zstd, buf_slice(&head), ZSTD_e_continue, dst);
    if (!code)
        code = compress(w->zstd, buf_slice(&w->text), ZSTD_e_end, dst);
    if (code) {
        dst->len = start;
        return code;
    }
    batch_sha256((struct slice){dst->data + start, dst->len - start}, sha256);
    buf_reset(&w->text);
    w->n = 0;
    return 0;
}
