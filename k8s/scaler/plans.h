/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What scatter plans can use: a cap, when the target names their database. */

struct job;

/* Sets j->plan_cap. A database that cannot be read leaves it unknown: a hint, no reason to hold. */
void plans_read(struct job *j);
