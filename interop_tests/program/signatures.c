/* SPDX-License-Identifier: Apache-2.0 */
/* Prints signatures, each with its name, that test_client_api.py builds in Python as well. */

#include <celeryc/client.h>

#include <stdio.h>

static struct celeryc_sig *sig(const char *name)
{
    return celeryc_signature(name, NULL, NULL);
}

static struct celeryc_sig *chain2(struct celeryc_sig *x, struct celeryc_sig *y)
{
    struct celeryc_sig *v[] = {x, y};
    return celeryc_chain(2, v);
}

static struct celeryc_sig *chain3(struct celeryc_sig *x, struct celeryc_sig *y,
                                  struct celeryc_sig *z)
{
    struct celeryc_sig *v[] = {x, y, z};
    return celeryc_chain(3, v);
}

static struct celeryc_sig *group2(struct celeryc_sig *x, struct celeryc_sig *y)
{
    struct celeryc_sig *v[] = {x, y};
    return celeryc_group(2, v);
}

static void print(const char *name, const char *how, struct celeryc_sig *s)
{
    const char *json = celeryc_sig_json(s, NULL);

    printf("%s%s %s\n", name, how, json ? json : celeryc_sig_error(s));
    celeryc_sig_free(s);
}

static void print_all(const char *name, struct celeryc_sig *s)
{
    print(name, "+link", celeryc_sig_link(celeryc_sig_copy(s), sig("l")));
    print(name, "+errback", celeryc_sig_link_error(celeryc_sig_copy(s), sig("e")));
    print(name, "+stamp", celeryc_sig_stamp(celeryc_sig_copy(s), "s", "[1]"));
    print(name, "+set",
          celeryc_sig_set(
              celeryc_sig_set(celeryc_sig_immutable(celeryc_sig_copy(s)), "queue", "\"q\""),
              "countdown", "1.5"));
    print(name, "", s);
}

int main(void)
{
    struct celeryc_sig *one[1];

    print_all("task", celeryc_signature("t", "[1, \"x\"]", NULL));
    print_all("chain", chain3(sig("a"), sig("b"), sig("c")));
    print_all("group", group2(sig("a"), sig("b")));
    print_all("chord", celeryc_chord(group2(sig("a"), sig("b")), sig("c")));
    print_all("group-then", chain2(group2(sig("a"), sig("b")), sig("c")));
    print_all("then-group", chain2(sig("a"), group2(sig("b"), sig("c"))));
    print_all("then-group-then", chain3(sig("a"), group2(sig("b"), sig("c")), sig("a")));
    one[0] = group2(sig("a"), sig("b"));
    print_all("lone-group", celeryc_chain(1, one));
    print_all("chain-in-chain", chain2(chain2(sig("a"), sig("b")), sig("c")));
    one[0] = group2(sig("a"), sig("b"));
    print_all("group-in-group", celeryc_group(1, one));
    one[0] = sig("a");
    print_all("chord-then", chain2(celeryc_chord(celeryc_group(1, one), sig("b")), sig("c")));
    return 0;
}
