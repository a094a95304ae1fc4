/* SPDX-License-Identifier: Apache-2.0 */
#include "harness.h"

#include "celeryc/base/clock.h"
#include "celeryc/migrate/runtime.h"

#include <criterion/criterion.h>
#include <criterion/internal/assert.h>
#include <unistd.h>

static void take_sent(void *arg, struct slice queue, int priority, struct slice raw)
{
    struct harness *h = arg;

    (void)priority;
    cr_assert_lt(h->n_sent, ARRAY_SIZE(h->sent));
    h->sent[h->n_sent++] = (struct sent){slice_dup(queue), slice_dup(raw)};
}

void harness_open(struct harness *h, enum fixture_kind kind)
{
    struct err e = ERR_INIT;

    *h = (struct harness){0};
    fixture_open(&h->db, kind);
    (void)snprintf(h->dir, sizeof(h->dir), "/tmp/scatter-batches-XXXXXX");
    cr_assert_not_null(mkdtemp(h->dir));
    (void)snprintf(h->database, sizeof(h->database), "default=%s", h->db.url);
    h->databases[0] = h->database;
    h->registry = task_registry_new();
    const struct migrate_options o = {.databases = h->databases,
                                      .lease_ms = LEASE_MS,
                                      .chunk_ms = 250,
                                      .default_queue = "celery"};
    int r = migrate_register_tasks(h->registry, &o, &e);

    cr_assert_eq(r, 0, "%s", err_text(&e, r));
}

static void object_path(const struct harness *h, int64_t batch, char *dst, size_t size)
{
    char name[40];

    batch_object_name(batch, name);
    (void)snprintf(dst, size, "%s/%s", h->dir, name);
}

void harness_close(struct harness *h)
{
    char path[128];

    for (int64_t i = 1; i <= 16; i++) {
        object_path(h, i, path, sizeof(path));
        (void)unlink(path);
    }
    (void)rmdir(h->dir);
    for (size_t i = 0; i < h->n_sent; i++) {
        free(h->sent[i].queue);
        free(h->sent[i].raw);
    }
    connections_close();
    h->registry = task_registry_free(h->registry);
    fixture_close(&h->db);
}

/* ---- planning ---- */

static void write_batch(const struct harness *h, const char *name, int64_t batch, int64_t first,
                        int64_t count, char sha256[65])
{
    CLEANUP(batch_writer_free) struct batch_writer *w = batch_writer_new();
    CLEANUP(buf_deinit) struct buf object = BUF_INIT;
    char plan[] = "p", table[] = "parcel", key[] = "id", phone[] = "phone", migration[64],
         path[128];
    char *columns[] = {phone};

    const enum batch_kind kinds[] = {BATCH_NUMBER, BATCH_TEXT};

    (void)snprintf(migration, sizeof(migration), "%s", name);
    for (int64_t id = first; id < first + count; id++) {
        char text[2][32];

        (void)snprintf(text[0], sizeof(text[0]), "%lld", (long long)id);
        (void)snprintf(text[1], sizeof(text[1]), "0162 %03d %04d", (int)(id / 10000),
                       (int)(id % 10000));
        const struct slice fields[] = {slice_str(text[0]), slice_str(text[1])};

        cr_assert_eq(batch_writer_add(w, fields, kinds, 2), 0);
    }
    const struct batch_header header = {.plan = plan,
                                        .batch = batch,
                                        .migration = migration,
                                        .table = table,
                                        .key = key,
                                        .columns = columns,
                                        .n_columns = 1};

    cr_assert_eq(batch_writer_finish(w, &header, &object, sha256), 0);
    object_path(h, batch, path, sizeof(path));
    FILE *f = fopen(path, "we");

    cr_assert(f && fwrite(object.data, 1, object.len, f) == object.len && fclose(f) == 0);
}

static void fill_table(struct harness *h, int64_t n)
{
    char sql[400];

    run_sql(h->db.db, "CREATE TABLE parcel (id bigint PRIMARY KEY, phone text, n integer NOT NULL "
                      "DEFAULT 0)");
    (void)snprintf(
        sql, sizeof(sql),
        "WITH RECURSIVE g (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < %lld), "
        "d (i, t) AS (SELECT i, substr('' || (10000000 + i), 2) FROM g) INSERT INTO "
        "parcel (id, phone) SELECT i, '0162 ' || substr(t, 1, 3) || ' ' || substr(t, 4) "
        "FROM d",
        (long long)n);
    run_sql(h->db.db, sql);
}

void harness_plan(struct harness *h, const char *name, int64_t n, int64_t size,
                  const char *on_batch, const char *on_finish, const char *retry_on)
{
    struct db_batch_row rows[16];
    char sha[16][65], source[16][200];
    int64_t n_batches = (n + size - 1) / size;
    struct err e = ERR_INIT;

    fill_table(h, n);
    for (int64_t i = 0; i < n_batches; i++) {
        char path[128];
        int64_t count = MIN(size, n - i * size);

        write_batch(h, name, i + 1, i * size + 1, count, sha[i]);
        object_path(h, i + 1, path, sizeof(path));
        (void)snprintf(source[i], sizeof(source[i]), "file://%s", path);
        rows[i] = (struct db_batch_row){i + 1, source[i], sha[i], count};
    }
    const struct db_plan p = {.plan = "p",
                              .migration = name,
                              .table = "parcel",
                              .key = "id",
                              .store = "file:///s",
                              .queue = "q",
                              .database = "default",
                              .total = n,
                              .n_batches = n_batches,
                              .on_batch = on_batch,
                              .on_finish = on_finish,
                              .retry_on = retry_on};
    int r = db_plan_insert(h->db.db, &p, rows, (size_t)n_batches, &e);

    cr_assert_eq(r, 0, "%s", err_text(&e, r));
}

/* ---- delivering ---- */

void delivery_deinit(struct delivery *d)
{
    free(d->record);
    free(d->repr);
    *d = (struct delivery){0};
}

static void take_state(void *arg, struct slice record)
{
    struct harness *h = arg;

    h->n_advanced += record.len == 0;
}

struct delivery deliver_kwargs(struct harness *h, const char *name, const char *kwargs,
                               bool redelivered)
{
    CLEANUP(buf_deinit) struct buf first = BUF_INIT, raw = BUF_INIT, frame = BUF_INIT;
    CLEANUP(arena_free) struct arena *a = arena_new(), *b = arena_new();
    const struct message_new n = {.task = slice_str(name),
                                  .id = SLICE_LIT("0c1cd8fb-1a2b-4f19-a0b5-6f2c9d3a5e11"),
                                  .kwargs = slice_str(kwargs),
                                  .queue = SLICE_LIT("q"),
                                  .now_us = clock_wall_us()};
    const struct task_settings s = {.node = "w1@here", .default_queue = "celery"};
    const struct task_host host = {
        .state = take_state, .send = take_sent, .stop = &h->stop, .arg = h};
    struct outcome o;
    struct err e = ERR_INIT;

    cr_assert_eq(message_write_new(&first, &n), 0);
    if (redelivered)
        cr_assert_eq(message_write_redelivered(&raw, buf_slice(&first)), 0);
    else
        buf_append_slice(&raw, buf_slice(&first));
    cr_assert_eq(task_run(h->registry, &s, &host, a, SLICE_LIT("q"), buf_slice(&raw), &frame), 0);
    cr_assert_eq(outcome_decode(b, buf_slice(&frame), &o, &e), 0, "%s", e.text);
    return (struct delivery){.kind = o.kind,
                             .requeue = o.requeue,
                             .countdown = o.countdown,
                             .record = o.record.p ? slice_dup(o.record) : NULL,
                             .repr = o.repr.p ? slice_dup(o.repr) : NULL};
}

struct delivery deliver(struct harness *h, const char *name, int64_t batch, bool redelivered)
{
    CLEANUP(buf_deinit) struct buf kwargs = BUF_INIT;
    char path[128];

    object_path(h, batch, path, sizeof(path));
    buf_appendf(&kwargs,
                "{\"plan\": \"p\", \"batch\": %lld, \"source\": \"file://%s\", \"database\": "
                "\"default\", \"sha256\": null, \"params\": {\"at\": \"7\"}}",
                (long long)batch, path);
    return deliver_kwargs(h, name, kwargs.data, redelivered);
}

void check_holds(const struct delivery *d, const char *text)
{
    cr_assert(d->record && strstr(d->record, text), "no %s in %s", text,
              d->record ? d->record : "(no record)");
}
