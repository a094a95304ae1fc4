/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* How large a chunk may be and how its values travel, in one table. docs/MIGRATIONS.md has the figures behind it, and
 * django_scatter/runtime.py and control_postgresql.py the same for Python. */

#define CHUNK_MIN       50
#define CHUNK_MAX       5000
#define CHUNK_FIRST     500
#define CHUNK_COPY_ROWS 5000 /* changes from which on COPY is quicker than arrays */
#define CHUNK_COPY_BYTES \
    (8u << 20) /* and bytes of their values; the server takes 1 GiB of parameters at most */
