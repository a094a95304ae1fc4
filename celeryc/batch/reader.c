/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of batch files: decompresses the whole object, then parses it line by line in place.
 *
 * Owns the decompressed text, one array of slices into it and one of records. The bytes are hostile: what they claim
 * (frame size, count, columns) is believed only as far as the bytes that are really there support it, so that a small
 * object can never make us reserve much. Never gives out a batch of which a single line was not understood. */

#include "celeryc/base/key.h"
#include "celeryc/base/limits.h"
#include "celeryc/batch/batch_priv.h"

#include <errno.h>
#include <zstd.h>

struct batch {
    struct batch_header header;
    struct buf text;
    struct slice *fields;
    struct batch_record *records;
    size_t n;
};

struct batch *batch_free(struct batch *b)
{
    if (!b)
        return NULL;
    batch_header_deinit(&b->header);
    buf_deinit(&b->text);
    free(b->fields);
    free(b->records);
    free(b);
    return NULL;
}

const struct batch_header *batch_get_header(const struct batch *b)
{
    return &b->header;
}

size_t batch_len(const struct batch *b)
{
    return b->n;
}

const struct batch_record *batch_at(const struct batch *b, size_t i)
{
    ASSERT(i < b->n);
    return &b->records[i];
}

static ZSTD_DCtx *dctx_free(ZSTD_DCtx *d)
{
    ZSTD_freeDCtx(d);
    return NULL;
}

DEFINE_CLEANUP(ZSTD_DCtx, dctx_free)

/* What the frame says of its size, cut at what such an object plausibly holds. */
static size_t first_size(struct slice object)
{
    unsigned long long said = ZSTD_getFrameContentSize(object.p, object.len);

    if (said == ZSTD_CONTENTSIZE_UNKNOWN || said == ZSTD_CONTENTSIZE_ERROR)
        said = 4ull * object.len;
    said = MIN(said, 64ull * object.len + 4096);
    return (size_t)MIN(said, (unsigned long long)LIMIT_BATCH_BYTES);
}

static int decompress(struct slice object, struct buf *dst, struct err *e)
{
    CLEANUP(dctx_free) ZSTD_DCtx *d = ZSTD_createDCtx();
    ZSTD_inBuffer in = {object.p, object.len, 0};
    size_t left = 1; /* 0: at the end of a frame */

    if (!d)
        return -ENOMEM;
    buf_reserve(dst, first_size(object) + 1);
    while (in.pos < in.size || left) {
        ZSTD_outBuffer out;
        size_t before = in.pos;

        buf_reserve(dst, 4096);
        if (dst->failed)
            return -ENOMEM;
        out = (ZSTD_outBuffer){dst->data + dst->len, dst->cap - dst->len - 1, 0};
        left = ZSTD_decompressStream(d, &out, &in);
        if (ZSTD_isError(left))
            return err_set(e, -EBADMSG, "not a zstd frame, or a damaged one (%s)",
                           ZSTD_getErrorName(left));
        dst->len += out.pos;
        dst->data[dst->len] = '\0';
        if (dst->len > LIMIT_BATCH_BYTES)
            return err_set(e, -E2BIG, "more than %u MiB after decompression",
                           LIMIT_BATCH_BYTES >> 20);
        if (left && in.pos == in.size && in.pos == before && out.pos == 0)
            return err_set(e, -EBADMSG, "the zstd frame is cut short");
    }
    return 0;
}

/* Takes the next line (without its line feed) off the text. False at the end. */
static bool next_line(struct buf *text, size_t *pos, char **ret_line, size_t *ret_len)
{
    char *start = text->data + *pos, *end;

    if (*pos == text->len)
        return false;
    end = memchr(start, '\n', text->len - *pos);
    *ret_line = start;
    *ret_len = end ? (size_t)(end - start) : text->len - *pos;
    *pos += *ret_len + (end ? 1 : 0);
    return true;
}

/* Room for what the header announces; each value takes at least two bytes of the text. */
static int reserve(struct batch *b, size_t rest, size_t width, struct err *e)
{
    size_t count = (size_t)b->header.count;

    if (count * width * 2 > rest)
        return err_set(e, -EBADMSG, "line 1: header: count %zu is more than the lines that follow",
                       count);
    b->fields = calloc(count * width + 1, sizeof(*b->fields));
    b->records = calloc(count + 1, sizeof(*b->records));
    return b->fields && b->records ? 0 : -ENOMEM;
}

static int read_records(struct batch *b, size_t pos, struct err *e)
{
    size_t n_keys = key_width(b->header.key), width = batch_width(&b->header);
    size_t count = (size_t)b->header.count, len, got;
    char *line;
    int code = reserve(b, b->text.len - pos, width, e);

    if (code)
        return code;
    while (next_line(&b->text, &pos, &line, &len)) {
        struct slice *fields = b->fields + b->n * width;

        if (b->n == count)
            return err_set(e, -EBADMSG, "line %zu: more records than the header's count %zu",
                           b->n + 2, count);
        if (len > LIMIT_BATCH_LINE)
            return err_set(e, -E2BIG, "line %zu: longer than %u MiB", b->n + 2,
                           LIMIT_BATCH_LINE >> 20);
        code = batch_row_parse(line, len, width, fields, NULL, &got, e);
        if (code)
            return err_prefix(e, code, "line %zu", b->n + 2);
        if (got != width)
            return err_set(e, -EBADMSG, "line %zu: %zu values for %zu columns", b->n + 2, got,
                           width);
        for (size_t i = 0; i < n_keys; i++)
            if (!fields[i].p)
                return err_set(e, -EBADMSG, "line %zu: the key is null", b->n + 2);
        b->records[b->n++] = (struct batch_record){width, fields};
    }
    if (b->n != count)
        return err_set(e, -EBADMSG, "ends after %zu of %zu records", b->n, count);
    return 0;
}

static int parse(struct batch *b, struct slice object, struct err *e)
{
    size_t pos = 0, len;
    char *line;
    int code = decompress(object, &b->text, e);

    if (code)
        return code;
    if (!next_line(&b->text, &pos, &line, &len))
        return err_set(e, -EBADMSG, "line 1: no header");
    if (len > LIMIT_BATCH_LINE)
        return err_set(e, -E2BIG, "line 1: longer than %u MiB", LIMIT_BATCH_LINE >> 20);
    code = header_parse((struct slice){line, len}, &b->header, e);
    if (code)
        return err_prefix(e, code, "line 1");
    return read_records(b, pos, e);
}

int batch_parse(struct slice object, struct batch **ret_b, struct err *e)
{
    struct batch *b;
    int code;

    if (object.len > LIMIT_OBJECT_BYTES)
        return err_set(e, -E2BIG, "the object has more than %u MiB", LIMIT_OBJECT_BYTES >> 20);
    b = calloc(1, sizeof(*b));
    if (!b)
        return -ENOMEM;
    code = parse(b, object, e);
    if (code) {
        batch_free(b);
        return code;
    }
    *ret_b = b;
    return 0;
}
