/* SPDX-License-Identifier: Apache-2.0 */
/* A migration that nothing but the fence protects: what it reads never changes, so that a record that is changed twice
 * is counted twice by the table's trigger. The twin is in harness/scatter_app.py. */

#include <celeryc/migration.h>

#include <string.h>

static int mark(const struct scatter_record *r, struct scatter_change *c)
{
    const char *name = scatter_text(r, "name");

    if (strcmp(name, "skip") == 0)
        return scatter_skip(c, "its name says so");
    return strcmp(name, "same") == 0 ? 0 : scatter_set_int(c, "done", 1);
}

SCATTER_MIGRATION("faults.mark", .record = mark, .table = "marked", .key = "id", .reads = {"name"},
                  .writes = {"done"})
