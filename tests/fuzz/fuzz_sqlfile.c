/* SPDX-License-Identifier: Apache-2.0 */
/* The file of a migration in SQL: whatever its bytes, it is refused with words or gives a table, a key, columns and a
 * SELECT. */

#include "celeryc/base/key.h"
#include "celeryc/migrate/sqlfile.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct err e = ERR_INIT;
    struct sql_file f;
    struct key key;

    ASSERT(a);
    if (sql_file_parse((struct slice){(const char *)data, size}, a, &f, &e)) {
        ASSERT(e.text[0]);
        return 0;
    }
    ASSERT(f.m.table[0] && key_parse(f.m.key, &key) == 0 && f.m.writes[0] && strlen(f.body) >= 4);
    return 0;
}
