/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The tables of settings: what each name of celery/app/defaults.py and of kombu's Redis options means here. */

#include <stddef.h>

enum setting_kind {
    SETTING_BOOL,      /* bool */
    SETTING_NOT,       /* bool, the opposite is kept */
    SETTING_TRISTATE,  /* int, -1 for null */
    SETTING_INT,       /* int64_t >= 0 */
    SETTING_SECONDS,   /* double >= 0; null keeps the default */
    SETTING_EXPIRY,    /* double >= 0; null is 0, never */
    SETTING_STRING,    /* char * */
    SETTING_SECRET,    /* char *, shown to nobody */
    SETTING_SCALAR,    /* char *, the text of a number or string */
    SETTING_NAMES,     /* struct strv: a string, or a list of strings or of objects with "name" */
    SETTING_STEPS,     /* priority_steps */
    SETTING_CONTENT,   /* accept_content */
    SETTING_URLS,      /* char *, a URL or a list of URLs */
    SETTING_REDIS,     /* struct redis_options; `only` is redis-py's name of the option */
    SETTING_REDIS_TLS, /* struct redis_options */
    SETTING_REDIS_SENTINEL, /* struct redis_options */
    SETTING_REDIS_STRATEGY, /* struct redis_options */
    SETTING_BROKER_OPTS,    /* a nested object */
    SETTING_BACKEND_OPTS,   /* a nested object */
    SETTING_MOOT,           /* nothing for this worker to do */
    SETTING_ONLY_WARN,      /* other values than `only` are warned of */
    SETTING_ONLY,           /* other values than `only` are refused */
};

struct setting {
    const char *name; /* a last '*' stands for any ending */
    enum setting_kind kind;
    size_t offset;
    const char
        *only; /* JSON values between '|'; null is always accepted (SETTING_REDIS: see there) */
    const char *note; /* what happens instead, or what to do */
};

extern const struct setting settings_worker[];
extern const struct setting settings_broker_options[];
extern const struct setting settings_backend_options[];
