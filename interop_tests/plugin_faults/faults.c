/* SPDX-License-Identifier: Apache-2.0 */
/* A migration that nothing but the fence protects: what it reads never changes, so that a record that is changed twice
 * is counted twice by the table's trigger. */

#include <celeryc/migration.h>

static int mark(const struct scatter_record *r, struct scatter_change *c)
{
    (void)r;
    return scatter_set_int(c, "done", 1);
}

SCATTER_MIGRATION("faults.mark", .record = mark, .table = "marked", .key = "id", .reads = {"name"},
                  .writes = {"done"})
