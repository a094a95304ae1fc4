/* SPDX-License-Identifier: Apache-2.0 */
/* One PostgreSQL cluster for all tests of the program: Criterion's runner owns it, its workers find it by URL. */

#include "pgserver.h"

#include <criterion/criterion.h>
#include <criterion/hooks.h>

ReportHook(PRE_ALL)(struct criterion_test_set *tests)
{
    (void)tests;
    pgserver_start();
}

ReportHook(POST_ALL)(struct criterion_global_stats *stats)
{
    (void)stats;
    pgserver_stop();
}
