/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Progress on standard error: nothing, a line that is drawn over, or JSON lines. */

#include <stdbool.h>
#include <stdint.h>

enum progress_form {
    PROGRESS_NONE,
    PROGRESS_BAR,
    PROGRESS_JSON,
};

struct progress {
    enum progress_form form;
    const char *phase; /* "planning", "enqueueing" */
    int64_t started_ns, shown_ns;
    bool drawn; /* a bar's line is on the screen */
};

void progress_init(struct progress *p, const char *form);
void progress_begin(struct progress *p, const char *phase);
/* Cheap; shows at most ten times a second. total -1: not known. */
void progress_update(struct progress *p, int64_t records, int64_t batches, int64_t total);
/* Shows the last state, ends the line. */
void progress_end(struct progress *p, int64_t records, int64_t batches, int64_t total);
/* Takes the bar off the screen, so that a message can be written. */
void progress_clear(struct progress *p);

/* "1,500,000"; dst has room for 32 bytes. Returns dst. */
const char *progress_number(int64_t v, char dst[32]);
