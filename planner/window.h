/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Maintenance windows: "Mon-Fri 01:00-05:00 Asia/Ho_Chi_Minh". Times by the system's time zone data. */

#include "celeryc/base/err.h"
#include "celeryc/base/util.h"

#include <stdint.h>

#define WINDOW_ZONE_MAX 64

struct window {
    unsigned days;        /* 1 << 0 is Sunday */
    int from_min, to_min; /* since midnight; to <= from: it ends on the next day */
    char zone[WINDOW_ZONE_MAX];
};

/* 0; -EINVAL with what is wrong. */
int window_parse(const char *text, struct window *ret_w, struct err *e) WARN_UNUSED;

struct window_times {
    bool open;
    int64_t ends_s; /* of the window that is open; closed: now */
    int64_t next_s; /* when the next one begins */
};

/* One thread only: the zone is the process's for a moment. */
void windows_at(const struct window *w, size_t n, int64_t now_s, struct window_times *ret_t);
/* "2026-11-30 01:00 +0700", as the clocks of the window's zone show it. */
void window_clock(const struct window *w, int64_t at_s, char *dst, size_t size);
