/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The calendar that clock.c and iso.c share. */

#include <stdbool.h>
#include <stdint.h>

#define US_PER_S           INT64_C(1000000)
#define US_PER_DAY         (INT64_C(86400) * US_PER_S)
#define DAYS_TO_1970       719162 /* from 0001-01-01 */
#define DAYS_PER_400_YEARS 146097
#define DAYS_TO_10000      2932897 /* from 1970-01-01 to the day after 9999-12-31 */
#define CLOCK_MIN_US       (-DAYS_TO_1970 * US_PER_DAY)
#define CLOCK_MAX_US       (DAYS_TO_10000 * US_PER_DAY - 1)

bool clock_is_leap(int64_t year);
int64_t clock_days(int64_t year, int64_t month,
                   int64_t day); /* since 1970-01-01; year >= 1, valid month */
