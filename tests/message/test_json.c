/* SPDX-License-Identifier: Apache-2.0 */
/* The scanner takes what json.loads takes; the writers give what Python gives. */

#include "celeryc/base/limits.h"
#include "celeryc/message/json.h"
#include "vectors.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>

static struct json_val scanned(const char *text)
{
    struct json_val v;
    struct err e = ERR_INIT;

    cr_assert_eq(json_scan(slice_str(text), &v, &e), 0, "%s: %s", text, e.text);
    return v;
}

Test(json, takes_what_python_takes)
{
    static const struct {
        const char *text;
        enum json_kind kind;
    } good[] = {
        {"null", JSON_K_NULL},
        {" true ", JSON_K_TRUE},
        {"\tfalse\r\n", JSON_K_FALSE},
        {"0", JSON_K_INT},
        {"-0", JSON_K_INT},
        {"123456789012345678901234567890", JSON_K_INT},
        {"1.0", JSON_K_FLOAT},
        {"1e5", JSON_K_FLOAT},
        {"-1.5E-3", JSON_K_FLOAT},
        {"NaN", JSON_K_FLOAT},
        {"-Infinity", JSON_K_FLOAT},
        {"Infinity", JSON_K_FLOAT},
        {"\"\\ud800\"", JSON_K_STRING},
        {"\"\x7f\"", JSON_K_STRING},
        {"\"\xf0\x9f\x98\x80\"", JSON_K_STRING},
        {"[]", JSON_K_ARRAY},
        {"{ }", JSON_K_OBJECT},
        {"[[],{\"a\":[1 , 2]}]", JSON_K_ARRAY},
    };

    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        cr_assert_eq(scanned(good[i].text).kind, good[i].kind, "%s", good[i].text);
}

Test(json, refuses_what_python_refuses)
{
    static const char *const bad[] = {
        "",
        " ",
        "nul",
        "nulll",
        "tru",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "-",
        "--1",
        "0x1",
        "inf",
        "nan",
        "-NaN",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "[",
        "]",
        "{",
        "[}",
        "{]",
        "\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\n\"",
        "\"\x01\"",
        "'a'",
        "1 1",
        "[] []",
        "\"\x80\"",
        "\"\xc3\"",
        "\"\xc0\xaf\"",
        "\"\xe0\x80\x80\"",
        "\"\xed\xa0\x80\"",
        "\"\xf4\x90\x80\x80\"",
        "\xef\xbb\xbf[]",
        "\"\\",
        "\"\\u",
        "[\"a\"",
        "{\"a\":1",
        "{\"a\"",
        "\xff",
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct json_val v;
        struct err e = ERR_INIT;

        cr_assert_eq(json_scan(slice_str(bad[i]), &v, &e), -EINVAL, "%s", bad[i]);
        cr_assert(strstr(e.text, "not JSON"), "%s", e.text);
    }
    cr_assert_eq(json_scan((struct slice){"[1]\0", 4}, &(struct json_val){0}, NULL), -EINVAL);
}

Test(json, limits_the_depth)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct json_val v;
    struct err e = ERR_INIT;

    for (int i = 0; i < LIMIT_JSON_DEPTH; i++)
        buf_append_str(&b, i % 2 ? "[" : "{\"k\":");
    buf_append_str(&b, "[");
    cr_assert_eq(json_scan(buf_slice(&b), &v, &e), -E2BIG);
    cr_assert(strstr(e.text, "too deep"));
    b.data[b.len - 1] = '1';
    for (int i = LIMIT_JSON_DEPTH; i-- > 0;)
        buf_append_str(&b, i % 2 ? "]" : "}");
    cr_assert_eq(json_scan(buf_slice(&b), &v, &e), 0);
}

Test(json, walks_objects_and_arrays)
{
    struct json_val v = scanned(" { \"a\" : [1, {\"x\": \"}]\\\"\"}, \"s\"] ,\"b\":null, "
                                "\"a\\u0062\" : 1.5 , \"b\" : true}");
    struct json_val a = json_get(v, "a");
    int64_t n;
    double d;

    cr_assert_eq(json_len(v), 4);
    cr_assert_eq(json_len(a), 3);
    cr_assert_eq(json_get(v, "b").kind, JSON_K_TRUE, "the last one wins");
    cr_assert_eq(json_f64(json_get(v, "ab"), &d), 0, "a key with an escape");
    cr_assert_eq(json_i64(json_at(a, 0), &n), 0);
    cr_assert_eq(n, 1);
    cr_assert(slice_eq_str(json_get(json_at(a, 1), "x").raw, "\"}]\\\"\""));
    cr_assert_eq(json_at(a, 3).kind, JSON_K_NONE);
    cr_assert_eq(json_get(a, "a").kind, JSON_K_NONE);
    cr_assert_eq(json_get(v, "zz").kind, JSON_K_NONE);
    cr_assert_eq(json_len(json_at(a, 0)), 0);
    cr_assert_eq(json_get(scanned("{\"\\n\": 1}"), "\\n").kind, JSON_K_NONE,
                 "an escape is not its text");
    cr_assert_eq(json_get(scanned("{\"\\n\": 1}"), "\n").kind, JSON_K_INT);
}

Test(json, borrows_or_decodes_strings)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    const char *text = "[\"plain\", \"\\ud83d\\ude00\\u00e9\\n\\u0000\\/\", \"\\ud800x\", 1]";
    struct json_val v = scanned(text);
    struct slice s;

    cr_assert_eq(json_string(a, json_at(v, 0), &s), 0);
    cr_assert_eq(s.p, text + 2, "no copy without escapes");
    cr_assert(slice_eq_str(s, "plain"));
    cr_assert_eq(json_string_z(a, json_at(v, 0), &s), 0);
    cr_assert_neq(s.p, text + 2);
    cr_assert_str_eq(s.p, "plain");
    cr_assert_eq(json_string(a, json_at(v, 1), &s), 0);
    cr_assert(slice_eq(s, SLICE_LIT("\xf0\x9f\x98\x80\xc3\xa9\n\0/")));
    cr_assert_eq(json_string_z(a, json_at(v, 2), &s), 0);
    cr_assert(slice_eq(s, SLICE_LIT("\xed\xa0\x80x")), "a lone surrogate stays");
    cr_assert_eq(json_string(a, json_at(v, 3), &s), -EINVAL);
}

Test(json, reads_numbers)
{
    int64_t n;
    double d;

    cr_assert_eq(json_i64(scanned("-9223372036854775808"), &n), 0);
    cr_assert_eq(n, INT64_MIN);
    cr_assert_eq(json_i64(scanned("9223372036854775808"), &n), -ERANGE);
    cr_assert_eq(json_i64(scanned("1.0"), &n), -EINVAL);
    cr_assert_eq(json_i64(scanned("\"1\""), &n), -EINVAL);
    cr_assert_eq(json_f64(scanned("12"), &d), 0);
    cr_assert_eq(d, 12);
    cr_assert_eq(json_f64(scanned("-1e999"), &d), 0);
    cr_assert(isinf(d) && d < 0);
    cr_assert_eq(json_f64(scanned("NaN"), &d), 0);
    cr_assert(isnan(d));
    cr_assert_eq(json_f64(scanned("true"), &d), -EINVAL);
}

Test(json, writes_strings_as_python)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    json_write_string(
        &b, SLICE_LIT("a\"\\/\b\f\n\r\t\x01\x7f\xc3\xa9\xf0\x9f\x98\x80\xed\xa0\x80\xff\xc3"));
    json_write_string_or_null(&b, SLICE_NULL);
    json_write_string_or_null(&b, SLICE_LIT(""));
    cr_assert_str_eq(
        b.data,
        "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u007f\\u00e9\\ud83d\\ude00\\ud800\\ufffd\\ufffd\""
        "null\"\"");
}

Test(json, writes_numbers_as_python)
{
    static const struct {
        double v;
        const char *text;
    } cases[] = {
        {0.0, "0.0"},
        {-0.0, "-0.0"},
        {1.0, "1.0"},
        {0.1, "0.1"},
        {1e15, "1000000000000000.0"},
        {1e16, "1e+16"},
        {1e22, "1e+22"},
        {0.0001, "0.0001"},
        {0.00001, "1e-05"},
        {5e-324, "5e-324"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {NAN, "NaN"},
        {INFINITY, "Infinity"},
        {-INFINITY, "-Infinity"},
        {123456.789, "123456.789"},
        {9007199254740993.0, "9007199254740992.0"},
        {0x1p-44, "5.684341886080802e-14"},
        {2.5, "2.5"},
        {1e100, "1e+100"},
    };
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        buf_reset(&b);
        json_write_f64(&b, cases[i].v);
        cr_assert_str_eq(b.data, cases[i].text);
    }
    buf_reset(&b);
    json_write_i64(&b, INT64_MIN);
    json_write_i64(&b, 0);
    cr_assert_str_eq(b.data, "-92233720368547758080");
}

Test(json, normalises_layout_only)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    json_write_normal(&b,
                      scanned("{ \"\xc3\xa9\\/\":[1,2.50,1E5 , {}],\"b\":{\"__type__\":\"x\"}}"));
    cr_assert_str_eq(b.data, "{\"\\u00e9/\": [1, 2.50, 1E5, {}], \"b\": {\"__type__\": \"x\"}}");
}

Test(json, shows_values_as_python)
{
    struct vectors v;
    struct json_val line;
    size_t n = 0;

    for (vectors_open(&v, "repr.jsonl"); vectors_next(&v, &line); n++) {
        CLEANUP(buf_deinit) struct buf out = BUF_INIT;
        struct slice text = vectors_text(&v, line, "value");
        struct json_val value, tuple = json_get(line, "tuple");
        size_t limit = (size_t)vectors_int(line, "limit");

        cr_assert_eq(json_scan(text, &value, NULL), 0);
        json_write_normal(&out, value);
        cr_assert(slice_eq(buf_slice(&out), text));
        buf_reset(&out);
        json_write_python(&out, value);
        cr_assert(slice_eq(buf_slice(&out), vectors_text(&v, line, "repr")), "%s", out.data);
        buf_reset(&out);
        json_write_repr(&out, value, false, limit);
        cr_assert(slice_eq(buf_slice(&out), vectors_text(&v, line, "safe")), "%s", out.data);
        if (tuple.kind == JSON_K_NONE)
            continue;
        buf_reset(&out);
        json_write_repr(&out, value, true, limit);
        cr_assert(slice_eq(buf_slice(&out), vectors_text(&v, line, "tuple")), "%s", out.data);
    }
    cr_assert(n >= 200);
    vectors_close(&v);
}
