/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Shell completion and the man page, written from the tables of options and rules; packaging/ keeps what this prints. */

#include "celeryc/base/buf.h"

/* kind: "bash", "zsh" or "man". */
void completion_write(struct buf *dst, const char *kind);
