/* SPDX-License-Identifier: Apache-2.0 */
/* Batch files: what is written is read back as it was, and every kind of damage is refused with its place. */

#include "celeryc/base/limits.h"
#include "celeryc/batch/batch.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <zstd.h>

static struct batch_header header(void)
{
    static char *columns[] = {"phone", "active"};
    static char *types[] = {"int8", "text", NULL};

    return (struct batch_header){.plan = "p-1",
                                 .batch = 7,
                                 .migration = "phones.vn_renumber",
                                 .table = "parcel",
                                 .key = "id",
                                 .columns = columns,
                                 .types = types,
                                 .n_columns = 2};
}

static struct buf write_one(const struct slice *fields, const enum batch_kind *kinds, size_t n,
                            char sha[65])
{
    CLEANUP(batch_writer_free) struct batch_writer *w = batch_writer_new();
    struct batch_header h = header();
    struct buf b = BUF_INIT;

    cr_assert(w);
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(batch_writer_add(w, fields + 3 * i, kinds, 3), 0);
    cr_assert_eq(batch_writer_len(w), n);
    cr_assert_eq(batch_writer_finish(w, &h, &b, sha), 0);
    cr_assert_eq(batch_writer_len(w), 0);
    return b;
}

Test(batch, round_trip)
{
    const enum batch_kind kinds[] = {BATCH_NUMBER, BATCH_TEXT, BATCH_BOOL};
    const struct slice in[][3] = {
        {SLICE_LIT("1"), SLICE_LIT("0901 \"q\" \\ \t\n\x01\x7f"), SLICE_LIT("t")},
        {SLICE_LIT("92233720368547758070"), SLICE_LIT("Nguy\xe1\xbb\x85n \xf0\x9f\x93\x9e"),
         SLICE_LIT("f")},
        {SLICE_LIT("x"), SLICE_NULL, SLICE_LIT("maybe")},
        {SLICE_LIT("-4"), SLICE_LIT(""), SLICE_NULL},
    };
    const char *third[] = {"true", "false", "maybe", NULL};
    CLEANUP(batch_free) struct batch *b = NULL;
    CLEANUP(buf_deinit) struct buf object = BUF_INIT;
    struct err e = ERR_INIT;
    char sha[65], again[65];

    object = write_one(in[0], kinds, 4, sha);
    batch_sha256(buf_slice(&object), again);
    cr_assert_str_eq(sha, again);
    cr_assert_eq(batch_parse(buf_slice(&object), &b, &e), 0, "%s", e.text);
    const struct batch_header *h = batch_get_header(b);
    cr_assert_str_eq(h->plan, "p-1");
    cr_assert_eq(h->batch, 7);
    cr_assert_str_eq(h->migration, "phones.vn_renumber");
    cr_assert_eq(h->count, 4);
    cr_assert_eq(h->n_columns, 2);
    cr_assert_str_eq(h->columns[1], "active");
    cr_assert_str_eq(h->types[0], "int8");
    cr_assert_str_eq(h->types[1], "text");
    cr_assert_null(h->types[2]);
    cr_assert_eq(batch_len(b), 4);
    for (size_t i = 0; i < 4; i++) {
        const struct batch_record *r = batch_at(b, i);

        cr_assert_eq(r->n, 3);
        cr_assert(slice_eq(r->field[0], in[i][0]));
        cr_assert(slice_eq(r->field[1], in[i][1]));
        cr_assert_eq(r->field[1].p == NULL, in[i][1].p == NULL);
        cr_assert(slice_eq(r->field[2], slice_str(third[i])));
        cr_assert_eq(r->field[2].p == NULL, third[i] == NULL);
        cr_assert_eq(r->field[0].p[r->field[0].len], '\0');
    }
}

Test(batch, writer_refuses_what_no_column_takes_back)
{
    CLEANUP(batch_writer_free) struct batch_writer *w = batch_writer_new();
    CLEANUP(buf_deinit) struct buf object = BUF_INIT;
    CLEANUP(buf_deinit) struct buf large = BUF_INIT;
    CLEANUP(batch_free) struct batch *b = NULL;
    struct batch_header h = header();
    struct slice bad[] = {SLICE_LIT("\xff"),
                          SLICE_LIT("a\0b"),
                          SLICE_LIT("\xed\xa0\x80"),
                          SLICE_LIT("\xc0\xaf"),
                          SLICE_LIT("\xf4\x90\x80\x80"),
                          SLICE_LIT("\xe1\xbb")};
    char sha[65];

    h.n_columns = 1;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct slice fields[] = {SLICE_LIT("1"), bad[i]};

        cr_assert_eq(batch_writer_add(w, fields, NULL, 2), -EILSEQ, "%zu", i);
    }
    while (large.len <= LIMIT_BATCH_LINE)
        buf_append(&large, "................................................................", 64);
    struct slice fields[] = {SLICE_LIT("1"), buf_slice(&large)};
    cr_assert_eq(batch_writer_add(w, fields, NULL, 2), -E2BIG);
    fields[1] = SLICE_LIT("ok");
    cr_assert_eq(batch_writer_add(w, fields, NULL, 2), 0);
    cr_assert_eq(batch_writer_finish(w, &h, &object, sha), 0);
    cr_assert_eq(batch_parse(buf_slice(&object), &b, NULL), 0);
    cr_assert_eq(batch_len(b), 1);
}

static struct buf zstd(const char *text, size_t len)
{
    struct buf b = BUF_INIT;

    buf_reserve(&b, ZSTD_compressBound(len));
    b.len = ZSTD_compress(b.data, b.cap, text, len, 1);
    cr_assert(!ZSTD_isError(b.len));
    return b;
}

#define HEAD(columns, count)                                                                  \
    "{\"format\": 1, \"plan\": \"p\", \"batch\": 1, \"migration\": \"m\", \"table\": \"t\", " \
    "\"key\": \"id\", \"columns\": " columns ", \"count\": " count "}\n"

static const struct {
    const char *text, *error;
} defects[] = {
    {"", "line 1: no header"},
    {"[]\n", "line 1: header: not a JSON object"},
    {"{\"format\": 2}\n",
     "line 1: header: format 2 is newer than this program reads (1): upgrade it"},
    {"{\"format\": 1}\n", "line 1: header: \"plan\" is missing"},
    {"{\"format\": 1, \"plan\": 5}\n", "line 1: header: \"plan\" is not a string"},
    {"{\"format\": 1, \"plan\": \"a\\u0000b\"}\n",
     "line 1: header: \"plan\" holds a NUL character or half of a surrogate pair"},
    {HEAD("[\"a\", \"a\"]", "0"), "line 1: header: \"columns\" holds an empty or repeated name"},
    {HEAD("\"a\"", "0"), "line 1: header: \"columns\" is not an array"},
    {HEAD("[\"a\"]", "-1"), "line 1: header: \"count\" is -1, not within 0 to 1000000"},
    {HEAD("[\"a\"]", "1000000"),
     "line 1: header: count 1000000 is more than the lines that follow"},
    {HEAD("[\"a\"]", "2") "[1,\"x\"]\n", "ends after 1 of 2 records"},
    {HEAD("[\"a\"]", "1") "[1,\"x\"]\n[2,\"y\"]\n",
     "line 3: more records than the header's count 1"},
    {HEAD("[\"a\"]", "1") "[1,\"x\"]\n\n", "line 3: more records than the header's count 1"},
    {HEAD("[\"a\"]", "1") "\n[1,\"x\"]", "line 2: not a JSON array"},
    {HEAD("[\"a\"]", "1") "[1]    ", "line 2: 1 values for 2 columns"},
    {HEAD("[\"a\"]", "1") "[1,2,3]", "line 2: value 3: more values than columns"},
    {HEAD("[\"a\"]", "1") "[null,2]", "line 2: the key is null"},
    {HEAD("[\"a\"]", "1") "[1,[2]]",
     "line 2: value 2: an array or object (its text form belongs here)"},
    {HEAD("[\"a\"]", "1") "[1,NaN]",
     "line 2: value 2: neither string, number, true, false nor null"},
    {HEAD("[\"a\"]", "1") "[1,01]",
     "line 2: value 2: neither string, number, true, false nor null"},
    {HEAD("[\"a\"]", "1") "[1,+1]",
     "line 2: value 2: neither string, number, true, false nor null"},
    {HEAD("[\"a\"]", "1") "[1,1.]",
     "line 2: value 2: neither string, number, true, false nor null"},
    {HEAD("[\"a\"]", "1") "[1,\"x]", "line 2: value 2: a string has no end"},
    {HEAD("[\"a\"]", "1") "[1,\"x\\", "line 2: value 2: a string has no end"},
    {HEAD("[\"a\"]", "1") "[1,\"\\u12", "line 2: value 2: a \\u escape is cut short"},
    {HEAD("[\"a\"]", "1") "[1,\"\\ud800\"]", "line 2: value 2: half of a surrogate pair"},
    {HEAD("[\"a\"]", "1") "[1,\"\\udc00\"]", "line 2: value 2: half of a surrogate pair"},
    {HEAD("[\"a\"]", "1") "[1,\"\\u0000\"]", "line 2: value 2: a NUL character"},
    {HEAD("[\"a\"]", "1") "[1,\"\\x\"]", "line 2: value 2: an unknown escape"},
    {HEAD("[\"a\"]", "1") "[1,\"\x01\"]", "line 2: value 2: a raw control character in a string"},
    {HEAD("[\"a\"]", "1") "[1,\"\xff\"]", "line 2: value 2: not UTF-8"},
    {HEAD("[\"a\"]", "1") "[1,\"x\"] x", "line 2: text behind the closing bracket"},
    {HEAD("[\"a\"]", "1") "[1,\"x\"", "line 2: value 2: the line ends inside of its array"},
    {HEAD("[\"a\"]", "1") "[1,\"x\",", "line 2: value 3: more values than columns"},
    {HEAD("[]", "1") "[]", "line 2: value 1: neither string, number, true, false nor null"},
};

Test(batch, defects_are_named)
{
    for (size_t i = 0; i < ARRAY_SIZE(defects); i++) {
        CLEANUP(buf_deinit) struct buf object = zstd(defects[i].text, strlen(defects[i].text));
        CLEANUP(batch_free) struct batch *b = NULL;
        struct err e = ERR_INIT;
        int code = batch_parse(buf_slice(&object), &b, &e);

        cr_expect_eq(code, -EBADMSG, "%zu: %d", i, code);
        cr_expect_str_eq(e.text, defects[i].error, "%zu: %s", i, e.text);
        cr_expect_null(b);
    }
}

Test(batch, foreign_writers_are_read)
{
    const char text[] =
        "{\"count\": 2, \"format\": 1, \"plan\": \"p\", \"batch\": 1, \"migration\": \"m\","
        " \"table\": \"t\", \"key\": \"id\", \"columns\": [\"a\"], \"key_type\": null,"
        " \"column_types\": [\"text\"], \"total_batches\": 3, \"new\": {}}\n"
        " [ 1 , \"\\u00e9\\ud83d\\udcde\\/\" ] \r\n[1.5e3, true]";
    CLEANUP(buf_deinit) struct buf object = zstd(text, sizeof(text) - 1);
    CLEANUP(batch_free) struct batch *b = NULL;
    struct err e = ERR_INIT;

    cr_assert_eq(batch_parse(buf_slice(&object), &b, &e), 0, "%s", e.text);
    cr_assert_str_eq(batch_get_header(b)->types[1], "text");
    cr_assert_eq(batch_get_header(b)->total_batches, 3);
    cr_assert_str_eq(batch_at(b, 0)->field[1].p, "\xc3\xa9\xf0\x9f\x93\x9e/");
    cr_assert_str_eq(batch_at(b, 1)->field[0].p, "1.5e3");
    cr_assert_str_eq(batch_at(b, 1)->field[1].p, "true");
}

/* Every cut and every changed byte of a real object is seen: by the frame's checksum where by nothing else. */
Test(batch, damage_is_found)
{
    const struct slice fields[] = {SLICE_LIT("1"), SLICE_LIT("0123456789"), SLICE_LIT("t")};
    CLEANUP(buf_deinit) struct buf object = BUF_INIT;
    char sha[65];

    object = write_one(fields, NULL, 1, sha);
    for (size_t i = 0; i < object.len; i++) {
        CLEANUP(batch_free) struct batch *b = NULL;

        cr_assert_neq(batch_parse((struct slice){object.data, i}, &b, NULL), 0, "cut at %zu", i);
    }
    for (size_t i = 5; i < object.len; i++) {
        CLEANUP(batch_free) struct batch *b = NULL;

        object.data[i] ^= 0x10;
        /* A few bits of a frame mean nothing: then nothing changed. */
        if (batch_parse(buf_slice(&object), &b, NULL) == 0)
            cr_assert_str_eq(batch_at(b, 0)->field[1].p, "0123456789", "flipped at %zu", i);
        object.data[i] ^= 0x10;
    }
}

Test(batch, small_objects_cannot_claim_much)
{
    /* 100 MB of zeros is a zstd frame of a few kB: not a header, and refused before it is parsed as one. */
    size_t len = 100u << 20;
    char *zeros = calloc(1, len);
    CLEANUP(batch_free) struct batch *b = NULL;
    struct err e = ERR_INIT;

    cr_assert(zeros);
    CLEANUP(buf_deinit) struct buf object = zstd(zeros, len);
    free(zeros);
    cr_assert_lt(object.len, 100000);
    cr_assert_eq(batch_parse(buf_slice(&object), &b, &e), -E2BIG, "%s", e.text);
}

Test(batch, names_and_ids)
{
    char name[40], id[37], sha[65];

    batch_object_name(7, name);
    cr_assert_str_eq(name, "batch-000007.ndjson.zst");
    batch_object_name(12345678, name);
    cr_assert_str_eq(name, "batch-12345678.ndjson.zst");
    /* uuid.uuid5(uuid.NAMESPACE_URL, "scatter:p-1:7") */
    batch_task_id("p-1", 7, id);
    cr_assert_str_eq(id, "408b08ef-4d12-51f6-971d-c0bbb5d7d5e2");
    batch_sha256(SLICE_LIT("abc"), sha);
    cr_assert_str_eq(sha, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

Test(batch, kinds_of_types)
{
    cr_assert_eq(batch_kind_of_type("int8"), BATCH_NUMBER);
    cr_assert_eq(batch_kind_of_type("BIGINT"), BATCH_NUMBER);
    cr_assert_eq(batch_kind_of_type("integer unsigned"), BATCH_NUMBER);
    cr_assert_eq(batch_kind_of_type("int(11)"), BATCH_NUMBER);
    cr_assert_eq(batch_kind_of_type("integer[]"), BATCH_TEXT);
    cr_assert_eq(batch_kind_of_type("interval"), BATCH_TEXT);
    cr_assert_eq(batch_kind_of_type("bool"), BATCH_BOOL);
    cr_assert_eq(batch_kind_of_type("numeric(10,2)"), BATCH_TEXT);
    cr_assert_eq(batch_kind_of_type(""), BATCH_TEXT);
    cr_assert_eq(batch_kind_of_type(NULL), BATCH_TEXT);
}
