/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The worker: one loop that takes messages from the transport to the pool and their ends back. */

#include "celeryc/worker/config.h"

#define WORKER_EX_PIDFILE 73 /* a live process holds the pidfile, as in Celery */
#define WORKER_EX_DEAF    75 /* the watchdog ended it: start another */

/* Runs until it is told to stop. program: what to execute for the zygote (/proc/self/exe); version is for people.
 * Returns the exit code of the process. */
int worker_run(const struct worker_config *c, const char *program, const char *version);
