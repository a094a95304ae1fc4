/* SPDX-License-Identifier: Apache-2.0 */
/* Batch files, manifests and record lines from anywhere. The first byte says what the rest is: 'f' an object as it
 * stands, 'b' the text of one (compressed here, or mutations would never get past the frame), 'm' a manifest, 'r' a
 * record line. Whatever is accepted is read to its last byte, and what was parsed from a batch is written and read
 * again. */

#include "fuzz.h"

#include "celeryc/batch/batch.h"

#include <zstd.h>

static volatile size_t seen;

static void look(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        seen += (unsigned char)s.p[i];
    if (s.p)
        ASSERT(s.p[s.len] == '\0' && !memchr(s.p, '\0', s.len));
}

static void write_again(const struct batch *b)
{
    CLEANUP(batch_writer_free) struct batch_writer *w = batch_writer_new();
    CLEANUP(batch_free) struct batch *again = NULL;
    CLEANUP(buf_deinit) struct buf object = BUF_INIT;
    char sha[65];

    ASSERT(w);
    for (size_t i = 0; i < batch_len(b); i++)
        ASSERT(batch_writer_add(w, batch_at(b, i)->field, NULL, batch_at(b, i)->n) == 0);
    ASSERT(batch_writer_finish(w, batch_get_header(b), &object, sha) == 0);
    ASSERT(batch_parse(buf_slice(&object), &again, NULL) == 0);
    ASSERT(batch_len(again) == batch_len(b));
    for (size_t i = 0; i < batch_len(b); i++)
        for (size_t k = 0; k < batch_at(b, i)->n; k++)
            ASSERT(slice_eq(batch_at(b, i)->field[k], batch_at(again, i)->field[k]));
}

static void parse_object(struct slice object)
{
    CLEANUP(batch_free) struct batch *b = NULL;
    struct err e = ERR_INIT;

    if (batch_parse(object, &b, &e)) {
        look(slice_str(e.text));
        return;
    }
    for (size_t i = 0; i < batch_len(b); i++)
        for (size_t k = 0; k < batch_at(b, i)->n; k++)
            look(batch_at(b, i)->field[k]);
    write_again(b);
}

static void parse_text(struct slice text)
{
    CLEANUP(buf_deinit) struct buf object = BUF_INIT;

    buf_reserve(&object, ZSTD_compressBound(text.len));
    ASSERT(buf_ok(&object) == 0);
    object.len = ZSTD_compress(object.data, object.cap, text.p, text.len, 1);
    ASSERT(!ZSTD_isError(object.len));
    parse_object(buf_slice(&object));
}

static void parse_manifest(struct slice text)
{
    CLEANUP(manifest_deinit) struct manifest m = {0};
    CLEANUP(manifest_deinit) struct manifest again = {0};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct err e = ERR_INIT;

    if (manifest_parse(text, &m, &e))
        return;
    ASSERT(manifest_write(&b, &m) == 0);
    ASSERT(manifest_parse(buf_slice(&b), &again, &e) == 0);
    ASSERT(again.total == m.total && again.n_batches == m.n_batches && str_eq(again.plan, m.plan));
}

static void parse_row(struct slice text)
{
    CLEANUP(mem_free) char *line = slice_dup(text);
    struct slice fields[8];
    enum batch_kind kinds[8];
    struct err e = ERR_INIT;
    size_t n = 0;

    ASSERT(line);
    if (batch_row_parse(line, text.len, ARRAY_SIZE(fields), fields, kinds, &n, &e))
        return;
    for (size_t i = 0; i < n; i++)
        look(fields[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice rest = {(const char *)data + 1, size - 1};

    if (size == 0)
        return 0;
    switch (data[0]) {
    case 'f':
        parse_object(rest);
        break;
    case 'b':
        parse_text(rest);
        break;
    case 'm':
        parse_manifest(rest);
        break;
    case 'r':
        parse_row(rest);
        break;
    default:
        break;
    }
    return 0;
}
