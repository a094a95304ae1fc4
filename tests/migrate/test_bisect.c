/* SPDX-License-Identifier: Apache-2.0 */
/* What the search for refused records costs, and that it finds exactly them. */

#include "celeryc/migrate/bisect.h"
#include "celeryc/migrate/breaker.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#define MAX_ROWS 5000

struct trial {
    bool bad[MAX_ROWS], aside[MAX_ROWS];
    size_t n, written, calls;
    bool hints;
    size_t pointed; /* the bad record of the last refusal */
};

static int apply(void *arg, size_t from, size_t n)
{
    struct trial *t = arg;

    t->calls++;
    cr_assert_eq(from, t->written, "records are written in order");
    cr_assert_leq(from + n, t->n);
    for (size_t i = from; i < from + n; i++) {
        if (t->bad[i] && !t->aside[i]) {
            t->pointed = i;
            return BISECT_REFUSED;
        }
    }
    t->written += n;
    return 0;
}

static int single(void *arg, size_t at)
{
    struct trial *t = arg;

    cr_assert(t->bad[at]);
    cr_assert_eq(t->pointed, at, "its own refusal is the last");
    cr_assert_not(t->aside[at]);
    t->aside[at] = true;
    return 0;
}

static size_t suspect(void *arg, size_t from, size_t n)
{
    struct trial *t = arg;

    return t->pointed >= from && t->pointed < from + n ? t->pointed : from + n;
}

static size_t run(struct trial *t)
{
    const struct bisect b = {
        .apply = apply, .single = single, .suspect = t->hints ? suspect : NULL, .arg = t};

    cr_assert_eq(bisect_run(&b, t->n), 0);
    cr_assert_eq(t->written, t->n);
    for (size_t i = 0; i < t->n; i++)
        cr_assert_eq(t->aside[i], t->bad[i], "record %zu", i);
    return t->calls;
}

/* k bad records of n, spread at random (a fixed sequence). */
static size_t cost(size_t n, size_t k, unsigned seed, bool hints)
{
    static struct trial t;

    t = (struct trial){.n = n, .hints = hints};
    for (size_t left = k; left;) {
        size_t at = (size_t)rand_r(&seed) % n;

        left -= !t.bad[at];
        t.bad[at] = true;
    }
    return run(&t);
}

Test(bisect, cost_follows_the_bad_ones)
{
    static const size_t sizes[][2] = {{1000, 1}, {5000, 1}, {1000, 5}, {5000, 20}, {1000, 100}};

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        double n = (double)sizes[i][0], k = (double)sizes[i][1], sum = 0, hinted = 0;

        for (unsigned seed = 1; seed <= 20; seed++) {
            sum += (double)cost(sizes[i][0], sizes[i][1], seed, false) / 20;
            hinted += (double)cost(sizes[i][0], sizes[i][1], seed, true) / 20;
        }
        cr_assert_leq(sum, k * log2(n / k) + 3.2 * k + 2, "%g of %g: %g statements", k, n, sum);
        cr_assert_leq(hinted, 3.5 * k + 2, "%g of %g: %g statements with hints", k, n, hinted);
    }
}

Test(bisect, edges)
{
    cr_assert_eq(cost(1000, 0, 1, false), 1);
    cr_assert_eq(cost(1, 1, 1, false), 2); /* refused, and written when it is marked */
    for (size_t n = 1; n <= 40; n++)
        for (size_t k = 0; k <= n; k++)
            (void)cost(n, k, (unsigned)(n * 100 + k), k % 2);
}

/* ---- the words of the server ---- */

static struct db_row row(const struct slice *old, const struct slice *fresh)
{
    return (struct db_row){.outcome = DB_O_CHANGED, .old = old, .fresh = fresh};
}

Test(suspect, words_of_postgresql)
{
    const struct slice old[][1] = {{SLICE_LIT("17")}, {SLICE_LIT("170")}, {SLICE_LIT("18")}};
    const struct slice fresh[][1] = {
        {SLICE_LIT("0321")}, {SLICE_LIT("03210")}, {SLICE_LIT("a text of thirty characters..")}};
    struct db_row rows[3];

    static const struct {
        const char *text;
        size_t want;
    } cases[] = {
        {"duplicate key value violates unique constraint \"u\": Key (phone)=(03210) already "
         "exists.",
         1},
        {"new row for relation \"p\" violates check constraint \"c\": Failing row contains (170, "
         "03210, x).",
         1},
        {"new row for relation \"p\" violates check constraint \"c\": Failing row contains (18, "
         "x).",
         2},
        {"value too long for type character varying(20)", 2},
        {"value too long for type character varying(200)", 3},
        {"invalid input syntax for type integer: \"0321\"", 0},
        {"the trigger says no", 3},
        {"", 3},
    };

    for (size_t i = 0; i < 3; i++)
        rows[i] = row(old[i], fresh[i]);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        cr_assert_eq(bisect_suspect(rows, 3, 1, cases[i].text), cases[i].want, "%s", cases[i].text);
}

/* ---- the breaker ---- */

Test(breaker, window)
{
    static struct breaker b;

    breaker_begin(&b, "p");
    for (size_t i = 0; i < 49; i++)
        breaker_add(&b, true);
    cr_assert_not(breaker_trips(&b, 0.05), "too few to judge");
    breaker_add(&b, true);
    cr_assert(breaker_trips(&b, 0.05));
    breaker_begin(&b, "p");
    cr_assert_eq(b.n_bad, 50, "the same plan goes on");
    breaker_add_good(&b, 5000);
    cr_assert_eq(b.n_bad, 0);
    cr_assert_eq(b.tried, BREAKER_WINDOW);
    for (size_t i = 0; i < 50; i++)
        breaker_add(&b, true);
    cr_assert_not(breaker_trips(&b, 0.05), "5 %% is not more than 5 %%");
    breaker_add(&b, true);
    cr_assert(breaker_trips(&b, 0.05));
    breaker_begin(&b, "q");
    cr_assert_eq(b.tried, 0);
    breaker_add(&b, true);
    breaker_forget(&b);
    cr_assert_eq(b.tried + b.n_bad, 0);
}
