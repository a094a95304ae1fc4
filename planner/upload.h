/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Writes batch objects in the background, so that reading and compressing need not wait for the store. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

#define UPLOAD_THREADS_MAX 32u

struct upload;

/* threads (1..UPLOAD_THREADS_MAX), each with its own store of that URL. 0; store_open's errors; -ENOMEM. */
int upload_new(const char *store_url, unsigned threads, struct upload **ret_u,
               struct err *e) WARN_UNUSED;
/* Takes the bytes (b is empty afterwards, also on failure). Waits while every thread is busy, so that at most
 * `threads` objects are in memory. 0, or the first failure of any earlier object. */
int upload_put(struct upload *u, const char *name, struct buf *b, struct err *e) WARN_UNUSED;
/* Waits until everything is stored. 0 or the first failure. */
int upload_wait(struct upload *u, struct err *e) WARN_UNUSED;
/* Waits for what is on its way, then ends the threads. */
struct upload *upload_free(struct upload *u);
DEFINE_CLEANUP(struct upload, upload_free)
