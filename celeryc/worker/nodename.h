/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Node names and the %-signs in them and in paths (celery/utils/nodenames.py). */

#include "celeryc/base/err.h"

/* -n: "w1" is celery@w1, "w1@" and NULL take the host; then %h %n %d %i %I %% are expanded. host is the machine's name.
 * 0 with the name (freed by the caller); -EINVAL for an unknown %-sign; -ENOMEM. */
int nodename_make(const char *name, const char *host, char **ret_node, struct err *e) WARN_UNUSED;

/* --logfile, --pidfile: %h host part, %n name part, %d domain, %p the node, %i 0, %I nothing, %% percent. */
int nodename_path(const char *path, const char *node, char **ret_path, struct err *e) WARN_UNUSED;

/* This machine's name, freed by the caller; NULL when out of memory. */
char *nodename_host(void);
