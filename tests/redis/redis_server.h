/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A private redis-server on a Unix socket in a directory of its own, for tests. */

#include "celeryc/redis/sync.h"

#include <sys/types.h>

struct redis_server {
    pid_t pid; /* 0 when stopped */
    char dir[64];
    char socket[96];
    char url[128];
    struct redis_endpoint endpoint;
};

/* Starts it and waits until it answers. args: NULL-terminated extra arguments, may be NULL. Aborts on failure. */
void redis_server_start(struct redis_server *s, const char *const *args);
void redis_server_kill(struct redis_server *s);                             /* SIGKILL, data gone */
void redis_server_restart(struct redis_server *s, const char *const *args); /* same directory */
void redis_server_stop(struct redis_server *s); /* and removes the directory */

/* One command by words; the answer as text (integers printed, arrays joined with ' ', nil ""), freed by the caller. */
char *redis_server_ask(const struct redis_server *s, ...) __attribute__((sentinel));
