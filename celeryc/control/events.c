/* SPDX-License-Identifier: Apache-2.0 */
/* Worker events with exactly the fields that celery/worker/heartbeat.py sends: one that is missing, or one called id or
 * alive, takes down every Python worker that gossips. */

#include "celeryc/control/control_priv.h"

#include "celeryc/base/clock.h"

#include <math.h>
#include <time.h>
#include <unistd.h>

/* Hours west of UTC, exact (celery/utils/time.py utcoffset of 5.7). */
static double utc_offset(time_t now)
{
    struct tm tm;
    return localtime_r(&now, &tm) ? -(double)tm.tm_gmtoff / 3600 + 0.0 : 0.0;
}

/* Rounded up to two decimals (celery/utils/sysinfo.py). */
static void write_load(struct buf *dst)
{
    double load[3] = {0, 0, 0};
    if (getloadavg(load, 3) < 0)
        load[0] = load[1] = load[2] = 0;
    buf_append_str(dst, ", \"loadavg\": [");
    for (size_t i = 0; i < 3; i++) {
        if (i)
            buf_append_str(dst, ", ");
        json_write_f64(dst, ceil(load[i] * 100) / 100);
    }
    buf_append_char(dst, ']');
}

static const char *type_of(enum event_kind kind)
{
    switch (kind) {
    case EVENT_ONLINE:
        return "worker-online";
    case EVENT_OFFLINE:
        return "worker-offline";
    default:
        return "worker-heartbeat";
    }
}

const char *event_write(struct buf *dst, struct panel *p, enum event_kind kind, int64_t freq_ms)
{
    int64_t now_us = clock_wall_us();
    buf_append_str(dst, "{\"hostname\": ");
    json_write_string(dst, slice_str(p->node));
    buf_append_str(dst, ", \"utcoffset\": ");
    json_write_f64(dst, utc_offset((time_t)(now_us / 1000000)));
    buf_appendf(dst, ", \"pid\": %d, \"clock\": %llu, \"freq\": ", (int)getpid(),
                (unsigned long long)++p->clock);
    if (kind == EVENT_ASKED) {
        buf_append_char(dst, '5');
    } else {
        struct control_stats s = {0};
        p->host->stats(&s, p->host->arg);
        json_write_f64(dst, (double)freq_ms / 1000);
        buf_appendf(dst, ", \"active\": %zu, \"processed\": %llu", s.active,
                    (unsigned long long)s.processed);
        write_load(dst);
    }
    buf_append_str(dst, ", \"sw_ident\": \"celeryc\", \"sw_ver\": ");
    json_write_string(dst, slice_str(p->version));
    buf_append_str(dst, ", \"sw_sys\": \"Linux\", \"timestamp\": ");
    json_write_f64(dst, (double)now_us / 1e6);
    buf_appendf(dst, ", \"type\": \"%s\"}", type_of(kind));
    switch (kind) {
    case EVENT_ONLINE:
        return "worker.online";
    case EVENT_OFFLINE:
        return "worker.offline";
    default:
        return "worker.heartbeat";
    }
}
