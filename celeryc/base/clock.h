/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Time: monotonic ns inside, wall clock only on the wire, ISO 8601 as dateutil's isoparse reads it. */

#include "celeryc/base/buf.h"

#include <stdint.h>

#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S  INT64_C(1000000000)

int64_t clock_mono_ns(void);
int64_t clock_wall_us(void); /* microseconds since the epoch, UTC */

/* "2026-11-22T14:38:16.778014+00:00"; the fraction is left out when it is zero, as datetime.isoformat does.
 * dst has at least CLOCK_ISO_SIZE bytes. */
#define CLOCK_ISO_SIZE 40
void clock_iso_format(int64_t wall_us, char *dst);

/* Every form of wire-messages 5.5 (dates, week and ordinal dates, any separator, fractions cut to 6 digits, 24:00,
 * Z, +hh, +hhmm, +hh:mm). A naive time is UTC. 0; -EINVAL not a time; -ERANGE outside years 1..9999. */
int clock_iso_parse(struct slice s, int64_t *ret_wall_us) WARN_UNUSED;

int clock_month_days(int64_t year, int64_t month); /* month 1..12 */
