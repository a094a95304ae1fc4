/* SPDX-License-Identifier: Apache-2.0 */
/* phones.vn_renumber: the renumbering of Vietnamese mobile numbers in 2018. Eleven-digit numbers (0 and ten more) of
 * the prefixes below became ten-digit ones; everything else stays as it is.
 *
 * A number begins with 0 or +84 and may have spaces and dots anywhere. Of the three digits of the old prefix two become
 * the new one in their places and the third goes; spaces and dots stay as they were written: "0162 987 6543" becomes
 * "032 987 6543", "+84.162.987.6543" becomes "+84.32.987.6543", "01 62 9876543" becomes "03 2 9876543". */

#include <celeryc/migration.h>

#include <string.h>

#define MAX_TEXT   128
#define OLD_DIGITS 10 /* without the leading 0 or 84 */
#define SEPARATORS " ."
#define WHITE      " \t\n\r\f\v"

struct renumber {
    const char *old, *fresh; /* without the leading 0 */
};

static const struct renumber prefixes[] = {
    /* Viettel */
    {"162", "32"},
    {"163", "33"},
    {"164", "34"},
    {"165", "35"},
    {"166", "36"},
    {"167", "37"},
    {"168", "38"},
    {"169", "39"},
    /* MobiFone */
    {"120", "70"},
    {"121", "79"},
    {"122", "77"},
    {"126", "76"},
    {"128", "78"},
    /* VinaPhone */
    {"123", "83"},
    {"124", "84"},
    {"125", "85"},
    {"127", "81"},
    {"129", "82"},
    /* Vietnamobile */
    {"186", "56"},
    {"188", "58"},
    /* Gmobile */
    {"199", "59"},
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Where the ten digits behind 0 or +84 stand. false: text is no such number. */
static bool find_digits(const char *text, size_t at[OLD_DIGITS])
{
    size_t i = strspn(text, WHITE);
    int n = 0;

    if (text[i] == '+') {
        i += 1 + strspn(text + i + 1, WHITE);
        if (text[i++] != '8')
            return false;
        i += strspn(text + i, SEPARATORS);
        if (text[i++] != '4')
            return false;
    } else if (text[i++] != '0') {
        return false;
    }
    for (i += strspn(text + i, SEPARATORS); text[i]; i += 1 + strspn(text + i + 1, SEPARATORS)) {
        if (!is_digit(text[i]) || n == OLD_DIGITS)
            return false;
        at[n++] = i;
    }
    return n == OLD_DIGITS;
}

static const char *new_prefix(const char *text, const size_t *at)
{
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        const char *old = prefixes[i].old;

        if (text[at[0]] == old[0] && text[at[1]] == old[1] && text[at[2]] == old[2])
            return prefixes[i].fresh;
    }
    return NULL;
}

static int renumber(const struct scatter_record *r, struct scatter_change *c)
{
    const char *old = scatter_text(r, "phone");
    size_t at[OLD_DIGITS], n = 0;
    char text[MAX_TEXT];

    if (!old || strlen(old) >= sizeof(text) || !find_digits(old, at))
        return scatter_unchanged(c);
    const char *fresh = new_prefix(old, at);

    if (!fresh)
        return scatter_unchanged(c);
    for (size_t i = 0; old[i]; i++) {
        if (i == at[0])
            text[n++] = fresh[0];
        else if (i == at[1])
            text[n++] = fresh[1];
        else if (i != at[2])
            text[n++] = old[i];
    }
    text[n] = '\0';
    return scatter_set_text(c, "phone", text);
}

SCATTER_MIGRATION("phones.vn_renumber", .record = renumber, .table = "parcel", .key = "id",
                  .reads = {"phone"}, .writes = {"phone"}, .version = "1")
