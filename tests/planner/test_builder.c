/* SPDX-License-Identifier: Apache-2.0 */
/* Rows to batches: columns picked, keys checked, batches cut, and rows from standard input with their trailer. */

#include "planner/builder.h"
#include "planner/source.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <unistd.h>

static struct args args = {.migration = "m", .batch_size = 2};
static char *columns[] = {(char[]){"phone"}};
static struct request request = {
    .args = &args, .plan = "p", .table = "t", .key = "id", .columns = columns, .n_columns = 1};
static struct progress progress;

struct got {
    struct buf text; /* every batch, read back: "1,a 2,b|3,c|" */
    int fail_at;
};

static int on_batch(const struct manifest_batch *m, struct buf *b, void *arg, struct err *e)
{
    CLEANUP(buf_deinit) struct buf object = *b;
    CLEANUP(batch_free) struct batch *batch = NULL;
    struct got *g = arg;
    char sha[65];

    *b = BUF_INIT;
    if (m->batch == g->fail_at)
        return err_set(e, -EIO, "store full");
    batch_sha256(buf_slice(&object), sha);
    cr_assert_str_eq(sha, m->sha256);
    cr_assert_eq(batch_parse(buf_slice(&object), &batch, e), 0, "%s", e->text);
    cr_assert_eq(batch_get_header(batch)->batch, m->batch);
    cr_assert_eq((int64_t)batch_len(batch), m->count);
    cr_assert_str_eq(batch_at(batch, 0)->field[0].p, m->first_key);
    cr_assert_str_eq(batch_at(batch, batch_len(batch) - 1)->field[0].p, m->last_key);
    for (size_t i = 0; i < batch_len(batch); i++) {
        const struct slice *f = batch_at(batch, i)->field;

        buf_appendf(&g->text, "%s%s,%s", i ? " " : "", f[0].p, f[1].p ? f[1].p : "NULL");
    }
    buf_append_char(&g->text, '|');
    return 0;
}

static struct builder *new_builder(struct got *g)
{
    const struct builder_options o = {.request = &request,
                                      .progress = &progress,
                                      .fix_order = "mend the order",
                                      .on_batch = on_batch,
                                      .arg = g};
    struct builder *b = builder_new(&o);

    cr_assert(b);
    return b;
}

static int from_stdin(const char *text, struct got *g, int64_t *ret_total, struct err *e)
{
    CLEANUP(builder_free) struct builder *b = new_builder(g);
    struct stdin_source s;
    int fd[2], code;

    cr_assert_eq(pipe(fd), 0);
    cr_assert_eq(write(fd[1], text, strlen(text)), (ssize_t)strlen(text));
    cr_assert_eq(close(fd[1]), 0);
    stdin_source_init(&s, fd[0]);
    code = stdin_source_prepare(&s, b, e);
    if (!code)
        code = stdin_source_run(&s, b, e);
    if (!code)
        code = builder_finish(b, e);
    *ret_total = builder_total(b);
    stdin_source_deinit(&s);
    cr_assert_eq(close(fd[0]), 0);
    return code;
}

#define HEAD "{\"columns\": [\"x\", \"phone\", \"id\"], \"types\": null}\n"

static const struct {
    const char *in, *out;
} good[] = {
    {HEAD, ""},
    {HEAD "[0,\"a\",9]\n[0,null,10]\n[0,\"c\",11]", "9,a 10,NULL|11,c|"},
    {HEAD "[0,\"a\",-10]\n[0,\"b\",-9]\n[0,\"c\",0]\n[0,\"d\",99999999999999999999]\n",
     "-10,a -9,b|0,c 99999999999999999999,d|"},
    {HEAD "[0,1.5,\"10\"]\r\n[0,true,\"9\"]\n", "10,1.5 9,true|"},
    {HEAD "[0,\"a\",\"A\"]\n[0,\"b\",\"a\"]\n[0,\"b\",\"\\u00e9\"]\n", "A,a a,b|\xc3\xa9,b|"},
    {"{\"columns\": [\"id\", \"phone\"], \"trailer\": true}\n[1,\"a\"]\n{\"rows\": 1}\n", "1,a|"},
    {"{\"columns\": [\"id\", \"phone\"], \"types\": [\"int8\", null]}\n[1,\"a\"]\n", "1,a|"},
};

Test(builder, rows_become_batches)
{
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        struct got g = {.text = BUF_INIT};
        struct err e = ERR_INIT;
        int64_t total;

        cr_expect_eq(from_stdin(good[i].in, &g, &total, &e), 0, "%zu: %s", i, e.text);
        cr_expect_str_eq(g.text.data ? g.text.data : "", good[i].out, "%zu: %s", i, g.text.data);
        buf_deinit(&g.text);
    }
}

static const struct {
    const char *in, *text;
} bad[] = {
    {"", "standard input is empty: its first line must be {\"columns\": [...]}"},
    {"[1]\n", "standard input: line 1 must be the object {\"columns\": [...]}"},
    {"{}\n", "standard input: line 1 must be {\"columns\": [names], \"types\": [...] or null}"},
    {"{\"columns\": [1]}\n", "standard input: line 1: a name or type is no text"},
    {"{\"columns\": [\"id\"], \"types\": []}\n", "standard input: line 1: 0 types for 1 columns"},
    {"{\"columns\": [\"phone\"]}\n",
     "the query has no key column \"id\" (it gives phone): add it, or correct --key"},
    {"{\"columns\": [\"id\"]}\n",
     "the query has no column \"phone\" (it gives id): add it, or correct --columns"},
    {"{\"columns\": [\"id\", \"phone\", \"id\"]}\n",
     "the query gives two columns named \"id\": rename one (AS)"},
    {HEAD "[0,\"a\",1]\n[0,\"b\",1]\n", "record 2: key \"1\" comes twice: mend the order"},
    {HEAD "[0,\"a\",10]\n[0,\"b\",9]\n",
     "record 2: key \"9\" comes after a greater one: mend the order"},
    {HEAD "[0,\"a\",-9]\n[0,\"b\",-10]\n",
     "record 2: key \"-10\" comes after a greater one: mend the order"},
    {HEAD "[0,\"a\",\"9\"]\n[0,\"b\",\"10\"]\n",
     "record 2: key \"10\" comes after a greater one: mend the order"},
    {HEAD "[0,\"a\",1]\n[0,\"b\",\"x\"]\n",
     "record 2: key \"x\" is no integer as the others are: mend the order"},
    {HEAD "[0,\"a\",1.5]\n",
     "record 1: key \"1.5\" is no integer as the others are: mend the order"},
    {HEAD "[0,\"a\",null]\n", "record 1: the key \"id\" is NULL: add WHERE id IS NOT NULL"},
    {HEAD "[0,\"a\"]\n", "record 1 has 2 values for 3 columns"},
    {HEAD "[0,\"a\",1]\n[0,\"a\",",
     "standard input: line 3: value 3: neither string, number, true, false nor null"},
    {HEAD "[0,\"a\",1]\n{\"rows\": 2}\n", "standard input: 1 rows came, but the sender counted 2"},
    {HEAD "{\"rows\": 0}\n[0,\"a\",1]\n", "standard input: line 3 comes after the trailer"},
    {HEAD "{\"r\": 0}\n", "standard input: line 2 is neither an array nor {\"rows\": n}"},
    {"{\"columns\": [\"id\", \"phone\"], \"trailer\": true}\n[1,\"a\"]\n",
     "standard input ended after 1 rows without its trailer: the sender was interrupted, run it "
     "again"},
};

Test(builder, wrong_rows_are_named)
{
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct got g = {.text = BUF_INIT};
        struct err e = ERR_INIT;
        int64_t total;

        cr_expect_eq(from_stdin(bad[i].in, &g, &total, &e), -EINVAL, "%zu", i);
        cr_expect_str_eq(e.text, bad[i].text, "%zu: %s", i, e.text);
        buf_deinit(&g.text);
    }
}

Test(builder, keys_that_the_database_sorted_must_only_differ)
{
    const char *const names[] = {"id", "phone"}, *const types[] = {"numeric", "text"};
    struct got g = {.text = BUF_INIT};
    CLEANUP(builder_free) struct builder *b = new_builder(&g);
    struct slice rows[][2] = {{SLICE_LIT("9.5"), SLICE_LIT("a")},
                              {SLICE_LIT("10.5"), SLICE_LIT("b")},
                              {SLICE_LIT("10.5"), SLICE_LIT("c")}};
    struct err e = ERR_INIT;

    cr_assert_eq(builder_columns(b, names, types, 2, &(enum key_order){KEY_DISTINCT}, &e), 0);
    cr_assert_eq(builder_row(b, rows[0], NULL, 2, &e), 0);
    cr_assert_eq(builder_row(b, rows[1], NULL, 2, &e), 0);
    cr_assert_eq(builder_row(b, rows[2], NULL, 2, &e), -EINVAL);
    cr_assert_str_eq(e.text, "record 3: key \"10.5\" comes twice: mend the order");
    buf_deinit(&g.text);
}

Test(builder, text_that_fits_no_batch_is_named)
{
    const char *const names[] = {"id", "phone"};
    struct got g = {.text = BUF_INIT};
    CLEANUP(builder_free) struct builder *b = new_builder(&g);
    struct slice row[] = {SLICE_LIT("7"), SLICE_LIT("\xff")};
    struct err e = ERR_INIT;

    cr_assert_eq(builder_columns(b, names, NULL, 2, &(enum key_order){KEY_INTEGER}, &e), 0);
    cr_assert_eq(builder_row(b, row, NULL, 2, &e), -EINVAL);
    cr_assert_eq(
        strncmp(e.text,
                "the record with key \"7\" holds a NUL character or a text that is not UTF-8", 70),
        0, "%s", e.text);
    buf_deinit(&g.text);
}

Test(builder, a_failing_store_ends_it)
{
    struct got g = {.text = BUF_INIT, .fail_at = 2};
    struct err e = ERR_INIT;
    int64_t total;

    cr_assert_eq(from_stdin(HEAD "[0,1,1]\n[0,1,2]\n[0,1,3]\n[0,1,4]\n[0,1,5]\n", &g, &total, &e),
                 -EIO);
    cr_assert_str_eq(e.text, "store full");
    cr_assert_eq(total, 4);
    buf_deinit(&g.text);
}
