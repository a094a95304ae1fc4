/* SPDX-License-Identifier: Apache-2.0 */
/* A migration that nothing but the fence protects: what it reads never changes, so that a record that is changed twice
 * is counted twice by the table's trigger. It takes its time, so that a worker that is stopped is most likely between two
 * transactions and writes its chunk when it wakes up. The twin is in harness/scatter_app.py. */

#include <celeryc/migration.h>

#include <string.h>
#include <time.h>

#define RECORD_NS 300000

static int mark(const struct scatter_record *r, struct scatter_change *c)
{
    const struct timespec nap = {.tv_nsec = RECORD_NS};
    const char *name = scatter_text(r, "name");

    (void)nanosleep(&nap, NULL);
    if (strcmp(name, "skip") == 0)
        return scatter_skip(c, "its name says so");
    return strcmp(name, "same") == 0 ? 0 : scatter_set_int(c, "done", 1);
}

SCATTER_MIGRATION("faults.mark", .record = mark, .table = "marked", .key = "id", .reads = {"name"},
                  .writes = {"done"})
