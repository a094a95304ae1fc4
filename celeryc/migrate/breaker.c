/* SPDX-License-Identifier: Apache-2.0 */
#include "celeryc/migrate/breaker.h"

#include "celeryc/base/util.h"

#include <stdio.h>
#include <string.h>

void breaker_forget(struct breaker *b)
{
    *b = (struct breaker){0};
}

void breaker_begin(struct breaker *b, const char *plan)
{
    if (strncmp(b->plan, plan, sizeof(b->plan) - 1) == 0)
        return;
    breaker_forget(b);
    (void)snprintf(b->plan, sizeof(b->plan), "%s", plan);
}

void breaker_add(struct breaker *b, bool bad)
{
    b->n_bad -= b->bad[b->at];
    b->bad[b->at] = bad;
    b->n_bad += bad;
    b->at = (b->at + 1) % BREAKER_WINDOW;
    b->tried += b->tried < BREAKER_WINDOW;
}

void breaker_add_good(struct breaker *b, size_t n)
{
    if (b->n_bad == 0) { /* the ring is all zeros: only the count moves */
        b->tried = n < BREAKER_WINDOW - b->tried ? b->tried + n : BREAKER_WINDOW;
        return;
    }
    for (size_t i = 0; i < n && i < BREAKER_WINDOW; i++)
        breaker_add(b, false);
}
