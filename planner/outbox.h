/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Callbacks that wait in the database, sent by a command. */

#include "planner/plan.h"

/* Are the callbacks that were asked for names or signatures? 0, -EINVAL naming the option. */
int outbox_check(const struct args *a, struct err *e) WARN_UNUSED;

#define OUTBOX_ABANDONED_S 30.0 /* since somebody took a callback and did not mark it as sent */

/* Sends what is due: fresh callbacks of the plan (NULL: of none) at once, those of any plan that have waited for age_s
 * seconds, because whoever was to send them is gone. One that cannot be sent keeps its error in its row and waits for
 * another try. *ret_n: how many went. 0; an error only when the outbox itself cannot be read. */
int outbox_send_all(struct db *db, const struct args *a, const char *plan, double age_s,
                    int64_t *ret_n, struct err *e) WARN_UNUSED;
