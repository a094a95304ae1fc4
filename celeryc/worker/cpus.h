/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* How many CPUs this process may really use: affinity and the control group's quota. */

#include <stddef.h>

/* At least 1. The smaller of the affinity mask and the quota rounded up. */
size_t cpus_available(void);

/* The same from given facts, for tests: cpu_max is the text of a cgroup v2 cpu.max ("200000 100000", "max 100000"). 0
 * when it sets no limit or is no such text. */
double cpus_quota(const char *cpu_max);
