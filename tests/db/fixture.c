/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

#include "pgserver.h"

#include <criterion/criterion.h>
#include <criterion/internal/assert.h>
#include <libpq-fe.h>
#include <sqlite3.h>
#include <unistd.h>

struct db *fixture_connect(const struct fixture *f)
{
    struct err e = ERR_INIT;
    struct db *db = NULL;
    int r = db_open(f->url, &db, &e);

    cr_assert_eq(r, 0, "%s: %s", f->url, err_text(&e, r));
    if (f->by_copy)
        db_set_copy(db, DB_COPY_ALWAYS);
    return db;
}

static void make_schema(struct fixture *f)
{
    char sql[128];
    PGconn *conn = PQconnectdb(pgserver_url());

    (void)snprintf(sql, sizeof(sql), "CREATE SCHEMA test_%d", (int)getpid());
    PQclear(PQexec(conn, sql));
    PQfinish(conn);
    (void)snprintf(f->url, sizeof(f->url),
                   "%s&options=-csearch_path%%3Dtest_%d&application_name=test_%d", pgserver_url(),
                   (int)getpid(), (int)getpid());
}

static void make_file(struct fixture *f)
{
    sqlite3 *conn = NULL;

    (void)snprintf(f->dir, sizeof(f->dir), "/tmp/scatter-sqlite-XXXXXX");
    cr_assert_not_null(mkdtemp(f->dir));
    (void)snprintf(f->url, sizeof(f->url), "sqlite://%s/db.sqlite3", f->dir);
    cr_assert_eq(sqlite3_open(f->url + strlen("sqlite://"), &conn), SQLITE_OK);
    (void)sqlite3_exec(conn, "VACUUM", NULL, NULL, NULL);
    (void)sqlite3_close(conn);
}

void fixture_open(struct fixture *f, enum fixture_kind kind)
{
    struct err e = ERR_INIT;

    *f = (struct fixture){.kind = kind == FIXTURE_COPY ? FIXTURE_POSTGRESQL : kind,
                          .by_copy = kind == FIXTURE_COPY};
    if (f->kind == FIXTURE_POSTGRESQL)
        make_schema(f);
    else
        make_file(f);
    f->db = fixture_connect(f);
    int r = db_ensure_schema(f->db, &e);

    cr_assert_eq(r, 0, "%s", err_text(&e, r));
}

void fixture_close(struct fixture *f)
{
    static const char *const names[] = {"db.sqlite3", "db.sqlite3-wal", "db.sqlite3-shm"};
    char path[128];

    f->db = db_close(f->db);
    if (!f->dir[0])
        return;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", f->dir, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(f->dir);
}

void run_sql(struct db *db, const char *sql)
{
    struct err e = ERR_INIT;
    int r = db->ops->exec(db, sql, NULL, 0, NULL, &e);

    cr_assert_eq(r, 0, "%s: %s", sql, err_text(&e, r));
}

char *query_text(struct db *db, const char *sql)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    struct err e = ERR_INIT;
    char *text = NULL;
    int r = db->ops->exec(db, sql, NULL, 0, &rows, &e);

    cr_assert_eq(r, 0, "%s: %s", sql, err_text(&e, r));
    if (rows.n_rows)
        cr_assert_eq(db_cell_dup(&rows, 0, 0, &text), 0);
    return text;
}

int64_t query_int(struct db *db, const char *sql)
{
    char *text = query_text(db, sql);
    int64_t v = text ? strtoll(text, NULL, 10) : -1;

    free(text);
    return v;
}
