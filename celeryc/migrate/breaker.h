/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* How many of the last records that this thread tried for a plan were set aside. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BREAKER_WINDOW 1000
#define BREAKER_MIN    50 /* records tried before it may judge */

struct breaker {
    char plan[128];
    uint8_t bad[BREAKER_WINDOW]; /* a ring */
    size_t at, tried, n_bad;
};

/* Another plan than the last time: nothing is known. */
void breaker_begin(struct breaker *b, const char *plan);
/* The plan was paused: whoever resumes it has seen why, and wants it judged by what comes then. */
void breaker_forget(struct breaker *b);
void breaker_add(struct breaker *b, bool bad);
void breaker_add_good(struct breaker *b, size_t n);

static inline bool breaker_trips(const struct breaker *b, double max_rate)
{
    return b->tried >= BREAKER_MIN && (double)b->n_bad > max_rate * (double)b->tried;
}
