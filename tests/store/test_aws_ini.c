/* SPDX-License-Identifier: Apache-2.0 */
/* The AWS tools' settings files, as people write them. */

#include "celeryc/store/aws_ini.h"

#include <criterion/criterion.h>
#include <errno.h>

static struct aws_ini ini;

static int parse(const char *text, struct err *e)
{
    aws_ini_deinit(&ini);
    return aws_ini_parse(slice_str(text), &ini, e);
}

static void finish(void)
{
    aws_ini_deinit(&ini);
}

TestSuite(aws_ini, .fini = finish);

Test(aws_ini, sections_and_values)
{
    cr_assert_eq(parse("\xef\xbb\xbf# first\r\n"
                       "[default]\r\n"
                       "AWS_Access_Key_Id = AKID\r\n"
                       "aws_secret_access_key=a=b/c+d\r\n"
                       "; note\n"
                       "region =   eu-west-3   # here\n"
                       "[ profile   \"two words\" ] ; note\n"
                       "region=us-west-2;not a note\n"
                       "ca_bundle = #all a note\n"
                       "[default]\n"
                       "region = eu-west-1",
                       NULL),
                 0);
    cr_assert_str_eq(aws_ini_get(&ini, "default", "aws_access_key_id"), "AKID");
    cr_assert_str_eq(aws_ini_get(&ini, "default", "aws_secret_access_key"), "a=b/c+d");
    cr_assert_str_eq(aws_ini_get(&ini, "default", "region"), "eu-west-1");
    cr_assert_str_eq(aws_ini_get(&ini, "profile two words", "region"), "us-west-2;not a note");
    cr_assert(aws_ini_has(&ini, "profile two words"));
    cr_assert_not(aws_ini_has(&ini, "two words"));
    cr_assert_null(aws_ini_get(&ini, "default", "output"));
}

Test(aws_ini, deeper_lines_belong_to_the_line_above)
{
    cr_assert_eq(parse("[default]\n"
                       "  region = a\n"
                       "  s3 =\n"
                       "    addressing_style = path\n"
                       "    max_queue_size = 10\n"
                       "  output = text\n"
                       "      and more = of it\n"
                       "[services x]\n"
                       "s3 = \n"
                       "  endpoint_url = http://h\n"
                       "  word\n",
                       NULL),
                 0);
    cr_assert_str_eq(aws_ini_get(&ini, "default", "s3.addressing_style"), "path");
    cr_assert_str_eq(aws_ini_get(&ini, "default", "s3.max_queue_size"), "10");
    cr_assert_str_eq(aws_ini_get(&ini, "default", "output"), "text");
    cr_assert_null(aws_ini_get(&ini, "default", "and more"));
    cr_assert_null(aws_ini_get(&ini, "default", "s3"), "an empty value is none");
    cr_assert_str_eq(aws_ini_get(&ini, "services x", "s3.endpoint_url"), "http://h");
}

static const struct {
    const char *text, *says;
} mistakes[] = {
    {"key = value", "line 1: expected a [section] first"},
    {"\n[default\nx = y", "line 2: no ] behind"},
    {"[default]\n\nsecret without equals", "line 3: expected key = value"},
    {"[default]\n= secret", "line 2: a value without a key"},
    {"[ ]\n", "line 1: a section without a name"},
    {"[\"\"]\n", "line 1: a section without a name"},
};

Test(aws_ini, mistakes_are_named_by_line_alone)
{
    for (size_t i = 0; i < ARRAY_SIZE(mistakes); i++) {
        struct err e = ERR_INIT;

        cr_expect_eq(parse(mistakes[i].text, &e), -EINVAL, "%zu", i);
        cr_expect(strstr(e.text, mistakes[i].says), "%zu: %s", i, e.text);
        cr_expect_null(strstr(e.text, "secret"));
    }
    aws_ini_deinit(&ini);
    cr_assert_eq(aws_ini_parse((struct slice){"[a]\nb\0=c", 9}, &ini, NULL), -EINVAL);
}

Test(aws_ini, too_many)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct err e = ERR_INIT;

    buf_append_str(&b, "[a]\n");
    for (int i = 0; i < 10000; i++)
        buf_append_str(&b, "k=v\n");
    cr_assert_eq(aws_ini_parse(buf_slice(&b), &ini, &e), -E2BIG);
    cr_assert(strstr(e.text, "more than 10000 settings"), "%s", e.text);
}
