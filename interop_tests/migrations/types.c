/* SPDX-License-Identifier: Apache-2.0 */
/* Migrations of the tests; the twins are in harness/scatter_app.py. */

#include <celeryc/migration.h>

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* Every column of one table read, and written into its twin. */
#define COLUMNS(X)                                                                         \
    X("flag")                                                                              \
    X("small")                                                                             \
    X("big")                                                                               \
    X("exact") X("real") X("word") X("padded") X("folded") X("day") X("moment") X("zoned") \
        X("span") X("bytes") X("doc") X("docb") X("list") X("words") X("ident") X("mood")

static const char *const names[] = {
#define NAME(n) n,
    COLUMNS(NAME)};

static int copy(const struct scatter_record *r, struct scatter_change *c)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char twin[64];
        int rc;

        (void)snprintf(twin, sizeof(twin), "%s_new", names[i]);
        rc = scatter_set_text(c, twin, scatter_text(r, names[i]));
        if (rc)
            return rc;
    }
    return 0;
}

#define TWIN(n) n "_new",
SCATTER_MIGRATION("interop.copy_types", .record = copy, .table = "sample", .reads = {COLUMNS(NAME)},
                  .writes = {COLUMNS(TWIN)})

/* Upper case; table and key are the plan's. */
static int upper(const struct scatter_record *r, struct scatter_change *c)
{
    const char *old = scatter_text(r, "word");
    char text[64];
    size_t n = 0;

    for (; old && old[n] && n + 1 < sizeof(text); n++)
        text[n] = (char)toupper((unsigned char)old[n]);
    text[n] = '\0';
    return scatter_set_text(c, "word", text);
}
SCATTER_MIGRATION("interop.upper", .record = upper, .table = "sample", .reads = {"word"},
                  .writes = {"word"})
