/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* How large a chunk may be, and how its values travel, in one table; `make bench-chunk` measures what stands behind it.
 * Python has the same: runtime.py, control_postgresql.py of django_scatter. */

#define CHUNK_MIN   50
#define CHUNK_FIRST 500
/* Past it a record gets at most 5 % cheaper, while its row stays locked for longer. */
#define CHUNK_MAX 5000

/* By COPY a chunk costs some 3 ms more, for a temporary table, and for each of its rows as much as four values in arrays;
 * each further value costs a tenth of a microsecond less. So COPY is quicker from so many further values on. */
#define CHUNK_COPY_FREE   4
#define CHUNK_COPY_VALUES 25000
/* And it must be COPY where arrays would come near to what the server takes as parameters, 1 GiB. */
#define CHUNK_COPY_BYTES (256u << 20)
