/* SPDX-License-Identifier: Apache-2.0 */
/* Migrations of the tests; the twins are in harness/scatter_app.py. */

#include <celeryc/migration.h>

#include <ctype.h>
#include <stdio.h>

/* Every column of one table read, and written into its twin. */
static const char *const names[] = {"flag",   "small", "big",    "exact", "real", "word",  "padded",
                                    "folded", "day",   "moment", "zoned", "span", "bytes", "doc",
                                    "docb",   "list",  "words",  "ident", "mood"};

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

SCATTER_MIGRATION("interop.copy_types", .record = copy, .table = "sample",
                  .reads = {"flag", "small", "big", "exact", "real", "word", "padded", "folded",
                            "day", "moment", "zoned", "span", "bytes", "doc", "docb", "list",
                            "words", "ident", "mood"},
                  .writes = {"flag_new", "small_new", "big_new", "exact_new", "real_new",
                             "word_new", "padded_new", "folded_new", "day_new", "moment_new",
                             "zoned_new", "span_new", "bytes_new", "doc_new", "docb_new",
                             "list_new", "words_new", "ident_new", "mood_new"})

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
