/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Makes the n-th allocation fail. Link with nomem.c and NOMEM_LINK_ARGS (see meson.build), which route malloc, calloc
 * and realloc of the code under test through here. */

#include <stdbool.h>
#include <stddef.h>

/* Runs step until it succeeds without a failure in reach: once with the first allocation failing, once with the
 * second, and so on. step returns 0 or -ENOMEM and leaves nothing behind; anything else ends the program. Returns the
 * number of allocations that were failed; at least one is expected of every step. */
size_t nomem_sweep(const char *name, int (*step)(void));
