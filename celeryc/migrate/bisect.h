/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Finding the records that a database refuses, with few statements and in file order.
 *
 * A refused group is halved until the record is alone; what stands in front of it is written on the way, and the next
 * group begins with it, marked. A group is as long as the distance between bad records so far lets hope: k bad ones of
 * n cost about k*log2(n/k) + 2k statements, and about 3k where the server's words point at the record. */

#include "celeryc/db/db.h"

#define BISECT_REFUSED 100 /* of apply: one of the records at least, nothing was written */

struct bisect {
    /* Writes the n records from `from` on. 0, BISECT_REFUSED, or any other code, which ends the run. */
    int (*apply)(void *arg, size_t from, size_t n);
    /* The record was refused alone; the last apply's failure is still known. 0: it is marked, go on (it comes with the
     * next apply); else the run ends. */
    int (*single)(void *arg, size_t at);
    /* Which of the n records from `from` on the last failure seems to speak of; from + n: none. NULL: nobody knows. */
    size_t (*suspect)(void *arg, size_t from, size_t n);
    void *arg;
};

/* All n records in order. 0, or the code that ended it: the records in front of the one that did are written. */
int bisect_run(const struct bisect *b, size_t n) WARN_UNUSED;

/* The first of the rows that an error's text seems to mean, n when none: by the key in "Failing row contains (...)", by a
 * new value that it quotes, or by the length that it allows. */
size_t bisect_suspect(const struct db_row *rows, size_t n, size_t n_writes, const char *text);
