/* SPDX-License-Identifier: Apache-2.0 */
/* Node names: the table of wire-transport 5.2, as Celery expands them on the host box.example.com. */

#include "celeryc/worker/nodename.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>

struct name_case {
    char in[24], out[40];
};

ParameterizedTestParameters(nodename, as_celery)
{
    static struct name_case cases[] = {
        {"", "celery@box.example.com"},
        {"w1", "celery@w1"},
        {"w1@%h", "w1@box.example.com"},
        {"w1@%n", "w1@box"},
        {"w1@%d", "w1@example.com"},
        {"%h", "celery@box.example.com"},
        {"w%i@%h", "w0@box.example.com"},
        {"w%I@%h", "w@box.example.com"},
        {"w@", "w@box.example.com"},
        {"@h", "celery@h"},
        {"a@b@c", "a@b@c"},
        {"50%%@x", "50%@x"},
    };
    return cr_make_param_array(struct name_case, cases, sizeof(cases) / sizeof(cases[0]));
}

ParameterizedTest(struct name_case *c, nodename, as_celery)
{
    char *node = NULL;
    struct err e = ERR_INIT;
    cr_assert_eq(nodename_make(c->in, "box.example.com", &node, &e), 0, "%s", e.text);
    cr_assert_str_eq(node, c->out);
    free(node);
}

Test(nodename, host_without_domain)
{
    char *node = NULL;
    struct err e = ERR_INIT;
    cr_assert_eq(nodename_make("w@%n.%d", "box", &node, &e), 0);
    cr_assert_str_eq(node, "w@box.");
    free(node);
}

Test(nodename, unknown_sign_is_an_error)
{
    char *node = NULL;
    struct err e = ERR_INIT;
    cr_assert_eq(nodename_make("w@%x", "box", &node, &e), -EINVAL);
    cr_assert_neq(strstr(e.text, "%x"), NULL, "%s", e.text);
    struct err e2 = ERR_INIT;
    cr_assert_eq(nodename_make("w@h%", "box", &node, &e2), -EINVAL);
    struct err e3 = ERR_INIT;
    cr_assert_eq(nodename_make("w@%p", "box", &node, &e3), -EINVAL, "%%p is for paths only");
    cr_assert_null(node);
}

Test(nodename, paths)
{
    char *path = NULL;
    struct err e = ERR_INIT;
    cr_assert_eq(nodename_path("%n%I.log", "w1@box.example.com", &path, &e), 0);
    cr_assert_str_eq(path, "w1.log");
    free(path);
    cr_assert_eq(nodename_path("%p-%h-%d-%i", "w1@box.example.com", &path, &e), 0);
    cr_assert_str_eq(path, "w1@box.example.com-box.example.com-example.com-0");
    free(path);
}
