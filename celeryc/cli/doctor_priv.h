/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The checks of celeryc doctor. Each reads in bounded pieces, tells what it found, and repairs it when asked to. */

#include "celeryc/base/arena.h"
#include "celeryc/cli/broker.h"

struct doctor {
    struct cli_broker b;
    bool json, fix;
    struct arena *arena; /* of one check */
    char *unacked, *index, *mutex;
    struct strv queues; /* names in the binding sets */
    uint64_t *lengths;  /* when the doctor came */
    size_t n_open;      /* findings that are still there */
    bool failed;        /* something could not be printed */
};

/* A finding: how many, how many of them were repaired, and a sentence for people. */
void doctor_found(struct doctor *d, const char *check, uint64_t n, uint64_t fixed, const char *fmt,
                  ...) PRINTF_LIKE(5, 6);

/* ---- doctor_unacked.c: messages that were taken and not acknowledged ---- */
int doctor_overdue(struct doctor *d, struct err *e) WARN_UNUSED;
int doctor_pairs(struct doctor *d, struct err *e) WARN_UNUSED; /* index and records, and far ETAs */

/* ---- doctor_keys.c: lists, celeryc's own keys, the server ---- */
int doctor_queues_begin(struct doctor *d, struct err *e) WARN_UNUSED;
int doctor_queues_end(struct doctor *d, struct err *e) WARN_UNUSED;
int doctor_dead_letters(struct doctor *d, struct err *e) WARN_UNUSED;
int doctor_delayed(struct doctor *d, struct err *e) WARN_UNUSED;
int doctor_dead_workers(struct doctor *d, struct err *e) WARN_UNUSED;
int doctor_memory(struct doctor *d, struct err *e) WARN_UNUSED;

/* ---- doctor_mailbox.c: remote control ---- */
int doctor_replies(struct doctor *d, struct err *e) WARN_UNUSED; /* reply lists that nobody reads */
int doctor_silent(struct doctor *d, struct err *e) WARN_UNUSED;  /* takes two seconds */
