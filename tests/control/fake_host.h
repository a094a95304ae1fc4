/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A panel on a worker that is only told: three tasks, one in each list, and a memory of what was done to it. */

#include "celeryc/control/control_priv.h"

struct fake_host {
    struct control_host host;
    struct control_options options;
    struct redis_endpoint broker;
    struct arena *arena;
    struct message messages[3];
    struct task_registry *tasks;
    struct map *totals;
    int n_terminated, signum, n_shutdowns;
    double soft, hard;
    bool refuses;
    struct panel panel;
    bool has_panel;
};

/* 0 or -ENOMEM; deinit in any case. */
int fake_host_init(struct fake_host *f) WARN_UNUSED;
void fake_host_deinit(struct fake_host *f);
DEFINE_CLEANUP_VALUE(struct fake_host, fake_host_deinit)

/* The reply to a command, arguments as JSON text; freed by the caller, NULL when out of memory. */
char *fake_host_ask(struct fake_host *f, const char *method, const char *arguments);
