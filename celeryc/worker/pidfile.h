/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The pidfile: made exclusively, stale ones taken over, removed at exit (celery/platforms.py). */

#include "celeryc/base/err.h"

#include <stdbool.h>

/* 0; -EEXIST when a live process holds it (a program exits 73); other -Exxx with a text. *ret_stale: an old one was
 * removed. */
int pidfile_take(const char *path, bool *ret_stale, struct err *e) WARN_UNUSED;
void pidfile_remove(const char *path);
