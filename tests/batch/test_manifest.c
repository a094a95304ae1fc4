/* SPDX-License-Identifier: Apache-2.0 */
/* The manifest: round trip, and refusal of what the planner must not build on. */

#include "celeryc/batch/batch.h"

#include <criterion/criterion.h>
#include <errno.h>

#define SHA "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

static struct buf write_sample(void)
{
    static char *columns[] = {"phone", "\"odd\" \xe2\x82\xac"};
    static struct manifest_batch batches[] = {
        {.batch = 1,
         .object = "batch-000001.ndjson.zst",
         .count = 2,
         .first_key = "1",
         .last_key = "5",
         .sha256 = SHA},
        {.batch = 2,
         .object = "batch-000002.ndjson.zst",
         .count = 1,
         .first_key = "9",
         .last_key = "9",
         .sha256 = SHA},
    };
    const struct manifest m = {.plan = "p-1",
                               .migration = "m",
                               .table = "t",
                               .key = "id",
                               .query = "SELECT 1\n-- \"x\"",
                               .store = "s3://b/p",
                               .queue = "celery",
                               .database = "default",
                               .created_by = "me",
                               .columns = columns,
                               .n_columns = 2,
                               .params_json = "{\"region\": \"vn\"}",
                               .on_finish = "app.done",
                               .total = 3,
                               .created_us = 1700000000123456,
                               .batches = batches,
                               .n_batches = 2};
    struct buf b = BUF_INIT;

    cr_assert_eq(manifest_write(&b, &m), 0);
    return b;
}

Test(manifest, round_trip)
{
    CLEANUP(buf_deinit) struct buf text = write_sample();
    CLEANUP(manifest_deinit) struct manifest m = {0};
    struct err e = ERR_INIT;

    cr_assert_eq(manifest_parse(buf_slice(&text), &m, &e), 0, "%s", e.text);
    cr_assert_str_eq(m.plan, "p-1");
    cr_assert_str_eq(m.query, "SELECT 1\n-- \"x\"");
    cr_assert_str_eq(m.columns[1], "\"odd\" \xe2\x82\xac");
    cr_assert_str_eq(m.params_json, "{\"region\": \"vn\"}");
    cr_assert_null(m.on_batch);
    cr_assert_str_eq(m.on_finish, "app.done");
    cr_assert_eq(m.created_us, 1700000000123456);
    cr_assert_eq(m.total, 3);
    cr_assert_eq(m.n_batches, 2);
    cr_assert_str_eq(m.batches[1].object, "batch-000002.ndjson.zst");
    cr_assert_str_eq(m.batches[0].last_key, "5");
    cr_assert_str_eq(m.batches[1].sha256, SHA);
}

static const struct {
    const char *from, *to, *error;
} defects[] = {
    {"\"total\": 3", "\"total\": 4", "manifest: total 4, but the batches hold 3"},
    {"\"batch\": 2", "\"batch\": 3", "manifest: batch 2: \"batch\" is 3, not within 2 to 2"},
    {"batch-000002.", "../../../etc.", "manifest: batch 2: \"object\" is no plain file name"},
    {"\"" SHA, "\"", "manifest: batch 1: \"sha256\" is not 64 lower hex digits"},
    {"\"format\": 1", "\"format\": 9",
     "manifest: format 9 is newer than this program reads (1): upgrade it"},
    {"{\"region\": \"vn\"}", "[]", "manifest: \"params\" is not an object"},
    {"2023-", "2O23-", "manifest: \"created\" is not a time"},
    {"\"plan\"", "\"plen\"", "manifest: \"plan\" is missing"},
    {"\"batches\": [", "\"batches\": [[],", "manifest: batch 1: \"batch\" is missing"},
    {"\"batches\"", "\"b\"", "manifest: \"batches\" is no array of batches"},
    {"]}", "]", "manifest: not a JSON object"},
};

Test(manifest, defects_are_named)
{
    for (size_t i = 0; i < ARRAY_SIZE(defects); i++) {
        CLEANUP(buf_deinit) struct buf text = write_sample();
        CLEANUP(buf_deinit) struct buf bad = BUF_INIT;
        CLEANUP(manifest_deinit) struct manifest m = {0};
        struct err e = ERR_INIT;
        char *at = strstr(text.data, defects[i].from);
        int code;

        cr_assert(at, "%zu", i);
        buf_append(&bad, text.data, (size_t)(at - text.data));
        buf_append_str(&bad, defects[i].to);
        buf_append_str(&bad, at + strlen(defects[i].from));
        code = manifest_parse(buf_slice(&bad), &m, &e);
        cr_expect_eq(code, -EBADMSG, "%zu: %d", i, code);
        cr_expect_str_eq(e.text, defects[i].error, "%zu: %s", i, e.text);
    }
}
