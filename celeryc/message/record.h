/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Result records and exceptions as Celery stores them (wire-messages 3.3, 3.8). No I/O. */

#include "celeryc/base/buf.h"
#include "celeryc/message/message.h"

struct record {
    const char *status;     /* "SUCCESS", ... */
    struct slice result;    /* JSON text; p NULL writes null */
    struct slice traceback; /* UTF-8 text; p NULL writes null */
    struct slice children;  /* JSON text; p NULL writes [] ; SLICE_LIT("null") possible */
    int64_t done_us;        /* wall clock; 0 writes null */
    struct slice group_id;  /* p NULL: field left out; likewise parent_id */
    struct slice parent_id;
    struct slice task_id;                           /* required */
    bool extended;                                  /* result_extended: the next six are written */
    struct slice name, args, kwargs, worker, queue; /* args, kwargs are JSON text */
    int64_t retries;
    struct json_val stamped_headers, stamps;
};

int record_write(struct buf *dst, const struct record *r) WARN_UNUSED; /* 0, -ENOMEM */

/* {"exc_type": ..., "exc_message": [...], "exc_module": ...}; args is JSON array text. */
void record_write_exception(struct buf *dst, struct slice type, struct slice args,
                            struct slice module);

/* Python's repr of such an exception: ValueError('boom', 7). args is JSON array text. */
void record_write_exception_repr(struct buf *dst, struct slice type, struct slice args);

/* A reader's view of a stored record (celeryc result, waiters). Borrows text. */
struct record_view {
    struct json_val status, result, traceback, date_done, task_id, children;
};

/* A stored value may be compressed (result_compression, Celery 5.7): gives the JSON text, which is `stored` itself when
 * it is not. 0, -ENOMEM, -EINVAL damaged or an unknown compression. Every read of a record goes through this. */
int record_inflate(struct arena *a, struct slice stored, struct slice *ret_text,
                   struct err *e) WARN_UNUSED;

/* 0; -EINVAL, -E2BIG not a record. */
int record_parse(struct slice text, struct record_view *ret_v, struct err *e) WARN_UNUSED;
bool record_ready(const struct record_view *v); /* SUCCESS, FAILURE or REVOKED */
bool record_succeeded(const struct record_view *v);
