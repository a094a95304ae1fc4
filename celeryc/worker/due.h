/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What is due when: a heap of intrusive entries by monotonic time. One timer of the loop serves them all. */

#include "celeryc/base/util.h"

#include <stdbool.h>
#include <stdint.h>

struct due {
    int64_t at_ns;
    size_t slot; /* place in the heap + 1; 0: not in it */
};

struct due_heap {
    struct due **v;
    size_t n, cap;
};

/* Puts d in, or moves it when it is there. 0 or -ENOMEM (then d is not in the heap). */
int due_set(struct due_heap *h, struct due *d, int64_t at_ns) WARN_UNUSED;
void due_clear(struct due_heap *h, struct due *d); /* harmless when it is not there */
struct due *due_first(const struct due_heap *h);   /* NULL when empty */
void due_deinit(struct due_heap *h);
