/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The three commands, and the servers that they talk to. */

#include "celeryc/db/db.h"
#include "celeryc/redis/sync.h"
#include "celeryc/store/store.h"
#include "planner/args.h"
#include "planner/progress.h"

struct servers {
    struct db *db;
    struct store *store;
    struct redis_sync *redis;       /* NULL when no message will be sent */
    struct redis_endpoint endpoint; /* borrowed by redis */
};

void servers_deinit(struct servers *s);
DEFINE_CLEANUP_VALUE(struct servers, servers_deinit)
int servers_open_db(struct servers *s, const char *url, struct err *e) WARN_UNUSED;
/* Fails when the database has no such plan, or no control tables. */
int servers_find_plan(struct servers *s, const char *plan, struct err *e) WARN_UNUSED;
/* What SCATTER_BROKER_OPTIONS says is added where the URL says nothing. */
int servers_open_broker(struct servers *s, const char *url, struct err *e) WARN_UNUSED;
/* Appends the same as members of Celery's settings, for the client library. */
int servers_write_settings(struct buf *dst, const char *key_prefix) WARN_UNUSED;

/* What a command did, for the program to print. */
struct result {
    char *plan;
    char *store, *queue, *note;
    int64_t total, batches, enqueued;
    bool dry_run;
    char *first_key, *last_key;
    struct buf sample; /* records as JSON arrays, separated by ", " */
    struct buf preflight, preflight_text;
    bool blocked; /* by the preflight */
};

void result_deinit(struct result *r);
DEFINE_CLEANUP_VALUE(struct result, result_deinit)

/* 0, or an error whose text names the fix. Nothing is left half done: see create.c. */
int plan_create(const struct args *a, struct progress *p, struct result *ret_r,
                struct err *e) WARN_UNUSED;
/* A plan of the records that another one set aside. */
int plan_redrive(const struct args *a, struct progress *p, struct result *ret_r,
                 struct err *e) WARN_UNUSED;
/* A plan that writes the old values of another one back. */
int plan_undo(const struct args *a, struct progress *p, struct result *ret_r,
              struct err *e) WARN_UNUSED;
/* Checks that every record of a plan is accounted for, and appends it. */
int plan_audit(const struct args *a, struct buf *dst, bool *ret_holds, struct err *e) WARN_UNUSED;
/* Checks what a plan did, keeps the result in its row and appends it. *ret_holds: nothing speaks against it. */
int plan_verify(const struct args *a, struct progress *p, struct buf *dst, bool *ret_holds,
                struct err *e) WARN_UNUSED;
/* Writes the report; appends where it is, in the form that was asked for. */
int plan_report(const struct args *a, struct buf *dst, struct err *e) WARN_UNUSED;
/* Sends the messages of every batch that is still "planned". */
int plan_enqueue(struct servers *s, const struct args *a, const char *plan, struct progress *p,
                 struct result *ret_r, struct err *e) WARN_UNUSED;
/* pause, resume, cancel, drain; set; sweep. Each appends its answer in the form that was asked for. */
int plan_control(const struct args *a, struct buf *dst, struct err *e) WARN_UNUSED;
int plan_set(const struct args *a, struct buf *dst, struct err *e) WARN_UNUSED;
/* windows.c: what --window says, as JSON; the windows of all plans, or one, brought up to date; of a plan that is new. */
int windows_json(const struct args *a, struct buf *dst, struct err *e) WARN_UNUSED;
int windows_roll(struct db *db, const char *plan, struct err *e) WARN_UNUSED;
int windows_begin(struct db *db, const struct args *a, const char *plan, struct err *e) WARN_UNUSED;
int plan_governor(const struct args *a, struct buf *dst, struct err *e) WARN_UNUSED;
int plan_sweep(const struct args *a, struct buf *dst, struct err *e) WARN_UNUSED;
/* Appends the status in the form that was asked for. */
int plan_status(const struct args *a, struct buf *dst, struct err *e) WARN_UNUSED;
