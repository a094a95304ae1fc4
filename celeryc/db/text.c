/* SPDX-License-Identifier: Apache-2.0 */
/* Words of others (exceptions, servers, migrations) that go into the control tables. A text that was cut in the middle of
 * a letter, or never was UTF-8, would be refused there, and with it the whole chunk or the end of a batch. */

#include "celeryc/db/db.h"

/* The length of the character at p, 0 when there is none. As PostgreSQL: no surrogates, nothing too long or too high. */
static size_t character(const unsigned char *p)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : 4;

    if (n == 1)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    bool bad = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
               (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f);

    return bad ? 0 : n;
}

void db_mend_text(char *text)
{
    while (*text) {
        size_t n = character((const unsigned char *)text);

        if (n == 0)
            *text = '?';
        text += n ? n : 1;
    }
}
