/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* How fast all migrations of one database may be: a decision from what its sensors say. Pure; the keeper asks and obeys. */

#include "celeryc/base/err.h"
#include "celeryc/base/util.h"

#include <stdint.h>

enum sensor {
    SENSOR_LAG_S,   /* of the slowest replica, seconds behind */
    SENSOR_LAG_MB,  /* and bytes */
    SENSOR_WAL,     /* written, MB a second */
    SENSOR_ARCHIVE, /* segments that wait to be archived */
    SENSOR_BLOCKED, /* sessions of others that wait for a lock of ours */
    SENSOR_WAITS,   /* sessions of ours that wait for a lock */
    N_SENSORS,
};

/* What `governor set NAME=VALUE` takes: the limits by sensor, and how to go about it. */
struct governor_limits {
    double of[N_SENSORS]; /* 0: not watched */
    double
        critical; /* as many times a limit, twice in a row: the plans are paused; 0: three times */
    double ceiling; /* records a second at most; 0: none */
};

/* "max_lag_s=2" and the like; "none" takes one away. ARGS_E_MISTAKE. */
int governor_set_word(struct governor_limits *l, const char *word, struct err *e) WARN_UNUSED;
const char *governor_sensor_name(enum sensor s); /* max_lag_s ... */

struct governor_sample {
    double of[N_SENSORS];
    const char *replica; /* the slowest one's name; NULL: there is none */
    double done;         /* records that were finished so far, of every plan that is running */
    int64_t at_ns;
};

struct governor {
    struct governor_limits limits;
    double floor;
    double rate;   /* now; INFINITY: no limit */
    double actual; /* records a second, of the last samples */
    double free;   /* what went through when nothing held it back */
    double done;
    int64_t at_ns;
    int n_critical;
};

struct governor_verdict {
    double rate, pressure;
    bool pause;
    char reason[200];
};

void governor_init(struct governor *g, const struct governor_limits *l, double floor, double rate);
void governor_decide(struct governor *g, const struct governor_sample *s,
                     struct governor_verdict *ret_v);
