/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* One empty target database for a test, on either dialect, and short ways to look into it. */

#include "celeryc/db/db_priv.h"

enum fixture_kind { FIXTURE_POSTGRESQL, FIXTURE_SQLITE, FIXTURE_COPY /* FIXTURE_POSTGRESQL */ };

struct fixture {
    enum fixture_kind kind;
    char url[256];
    char dir[64]; /* SQLite: the temporary folder */
    bool by_copy; /* every chunk goes by COPY */
    struct db *db;
};

/* A schema of its own inside the cluster, or a file of its own; the control tables are there. */
void fixture_open(struct fixture *f, enum fixture_kind kind);
void fixture_close(struct fixture *f);
/* Another connection to the same database. */
struct db *fixture_connect(const struct fixture *f);

/* Runs a statement outside of any transaction; the test fails when it does. */
void run_sql(struct db *db, const char *sql);
/* The first cell of a query, as a number; -1 for NULL or no row. */
int64_t query_int(struct db *db, const char *sql);
/* The first cell as text, freed by the caller; NULL for NULL or no row. */
char *query_text(struct db *db, const char *sql);

/* Defines the test `name` for both dialects: BOTH(claim_takes_lease) { ... use f ... } */
#define BOTH(name)                              \
    static void body_##name(struct fixture *f); \
    Test(postgresql, name)                      \
    {                                           \
        struct fixture f;                       \
        fixture_open(&f, FIXTURE_POSTGRESQL);   \
        body_##name(&f);                        \
        fixture_close(&f);                      \
    }                                           \
    Test(sqlite, name)                          \
    {                                           \
        struct fixture f;                       \
        fixture_open(&f, FIXTURE_SQLITE);       \
        body_##name(&f);                        \
        fixture_close(&f);                      \
    }                                           \
    static void body_##name(struct fixture *f)

/* The same, and on PostgreSQL with chunks by COPY as well. */
#define EVERY_WAY(name)                         \
    static void body_##name(struct fixture *f); \
    Test(copy, name)                            \
    {                                           \
        struct fixture f;                       \
        fixture_open(&f, FIXTURE_COPY);         \
        body_##name(&f);                        \
        fixture_close(&f);                      \
    }                                           \
    BOTH(name)
