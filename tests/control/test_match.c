/* SPDX-License-Identifier: Apache-2.0 */
/* Patterns for node names. Each answer is what Python's fnmatch.fnmatchcase and re.match give. */

#include "celeryc/control/control_priv.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>

#define REFUSED 2

struct pattern_case {
    char matcher[8], pattern[48], name[32];
    int answer; /* REFUSED: cannot be used */
};

ParameterizedTestParameters(match, as_python)
{
    static struct pattern_case cases[] = {
        {"glob", "w1@host", "w1@host", 1},
        {"glob", "w1", "w1@host", 0},
        {"glob", "w*", "w1@host", 1},
        {"glob", "*@h?st", "w1@host", 1},
        {"glob", "*", "", 1},
        {"glob", "", "", 1},
        {"glob", "w[0-3]@*", "w2@host", 1},
        {"glob", "w[!0-3]@*", "w2@host", 0},
        {"glob", "w[]x]1", "w]1", 1},
        {"glob", "w[1", "w[1", 1},
        {"glob", "*a*b*c", "xxaxxbxxbxc", 1},
        {"glob", "*a*b*c", "xxaxxbxxbxd", 0},
        {"glob", "a**b", "ab", 1},
        {"pcre", "w", "w1@host", 1},
        {"pcre", "1@", "w1@host", 0},
        {"pcre", ".*@host$", "w1@host", 1},
        {"pcre", "w\\d+@", "w123@host", 1},
        {"pcre", "w\\D+@", "w123@host", 0},
        {"pcre", "(?:w|x)[0-9]", "x7", 1},
        {"pcre", "(?P<n>a|bc|d)e", "bce", 1},
        {"pcre", "a|b|c$", "cd", 0},
        {"pcre", "|a", "z", 1},
        {"pcre", "a{2}b", "aab", 1},
        {"pcre", "a{2}b", "aaab", 0},
        {"pcre", "a{2,}b", "aaaab", 1},
        {"pcre", "a{,2}b", "aaab", 0},
        {"pcre", "a{1,3}b", "aaab", 1},
        {"pcre", "a{x}", "a{x}", 1},
        {"pcre", "(ab)*c", "ababc", 1},
        {"pcre", "(ab)+?c", "c", 0},
        {"pcre", "(a*)*b", "aaab", 1},
        {"pcre", "[^@]+@h", "w1@host", 1},
        {"pcre", "[]a]+b", "]ab", 1},
        {"pcre", "[\\w.-]+@", "w.1-a@h", 1},
        {"pcre", "\\w+\\b@", "w1@h", 1},
        {"pcre", "\\w+\\B@", "w1@h", 0},
        {"pcre", "w1\\@h\\Z", "w1@h", 1},
        {"pcre", "^w", "w1", 1},
        {"pcre", "a^w", "aw", 0},
        {"pcre", "\\.", ".", 1},
        {"pcre", "(", "a", REFUSED},
        {"pcre", "a)", "a", REFUSED},
        {"pcre", "[a", "a", REFUSED},
        {"pcre", "*a", "a", REFUSED},
        {"pcre", "a**", "a", REFUSED},
        {"pcre", "a\\", "a", REFUSED},
        {"pcre", "[z-a]", "a", REFUSED},
        {"pcre", "a{3,2}", "a", REFUSED},
        {"pcre", "(?=a)", "a", REFUSED},
        {"pcre", "(a)\\1", "aa", REFUSED},
        {"pcre", "(a?){999}(a?){999}(a?){999}", "a", REFUSED},
        {"none", "a", "a", REFUSED},
    };
    return cr_make_param_array(struct pattern_case, cases, ARRAY_SIZE(cases));
}

ParameterizedTest(struct pattern_case *c, match, as_python)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct err e = ERR_INIT;
    bool match = false;
    int r =
        match_name(a, slice_str(c->name), slice_str(c->pattern), slice_str(c->matcher), &match, &e);
    cr_assert_eq(r, c->answer == REFUSED ? -EINVAL : 0, "%s: %d %s", c->pattern, r, e.text);
    if (r == 0)
        cr_assert_eq(match, c->answer == 1, "%s %s on %s", c->matcher, c->pattern, c->name);
    else
        cr_assert(e.text[0]);
}

/* What would double the work at every level is given up by its count, not by the clock. */
Test(match, nesting_is_bounded, .timeout = 20)
{
    char deep[1024];
    CLEANUP(arena_free) struct arena *a = arena_new();
    bool match;
    static const char *const pieces[][2] = {{"(", "?)"}, {"(", "|)"}, {"(", "){2}"}, {"(", "*)*"}};
    for (size_t k = 0; k < ARRAY_SIZE(pieces); k++) {
        size_t n = 0;
        for (int i = 0; i < 30; i++)
            n += (size_t)snprintf(deep + n, sizeof(deep) - n, "%s", pieces[k][0]);
        n += (size_t)snprintf(deep + n, sizeof(deep) - n, "a");
        for (int i = 0; i < 30; i++)
            n += (size_t)snprintf(deep + n, sizeof(deep) - n, "%s", pieces[k][1]);
        int r = match_name(a, SLICE_LIT("aaaaaaaaaaaaaaaa"), (struct slice){deep, n},
                           SLICE_LIT("pcre"), &match, NULL);
        cr_assert(r == 0 || r == -EINVAL);
    }
}
