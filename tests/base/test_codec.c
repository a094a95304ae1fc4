/* SPDX-License-Identifier: Apache-2.0 */
/* Encodings and URLs. */

#include "celeryc/base/codec.h"
#include "celeryc/base/url.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <errno.h>

Test(codec, base64_vectors)
{
    static const char *const pairs[][2] = {
        {"", ""},
        {"f", "Zg=="},
        {"fo", "Zm8="},
        {"foo", "Zm9v"},
        {"foob", "Zm9vYg=="},
        {"\xff\xfe\xfd", "//79"},
        {"foobar", "Zm9vYmFy"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        CLEANUP(buf_deinit) struct buf b = BUF_INIT;
        CLEANUP(buf_deinit) struct buf back = BUF_INIT;

        base64_encode(&b, slice_str(pairs[i][0]));
        cr_assert(slice_eq_str(buf_slice(&b), pairs[i][1]));
        cr_assert_eq(base64_decode(&back, slice_str(pairs[i][1])), 0);
        cr_assert(slice_eq_str(buf_slice(&back), pairs[i][0]));
    }
}

Test(codec, base64_is_strict)
{
    static const char *const bad[] = {
        "Z",     "Zg",     "Zg=",  "Zg==Zg==", "=",     "====", "Zg=a",
        "Zm 9v", "Zm9v\n", "Zh==", "Zm9=",     "Zm9v=", "Z===", "\xff\xff\xff\xff"};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_append_str(&b, "kept");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        cr_assert_eq(base64_decode(&b, slice_str(bad[i])), -EINVAL, "%s", bad[i]);
        cr_assert_str_eq(b.data, "kept");
    }
}

/* What Python's base64.b64decode makes of them. */
Test(codec, base64_lax_is_pythons)
{
    static const struct {
        const char *text, *bytes; /* NULL: refused */
    } cases[] = {
        {"Zm9v\r\n Zg==", "foof"},
        {"Zg==Zg==", "f"},
        {"Zg=a", NULL},
        {"Zg=a=", "f\x06"},
        {"Zg", NULL},
        {"=Zm9v", "foo"},
        {"Z", NULL},
        {"Zh==", "f"},
        {"Zm9v=", "foo"},
        {"", ""},
        {"!!!!", ""},
        {"Zm9vZm8=trailing", "foofo"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char out[64];
        size_t len = 0;
        int r = base64_decode_to(out, slice_str(cases[i].text), true, &len);

        cr_assert_eq(r, cases[i].bytes ? 0 : -EINVAL, "%s", cases[i].text);
        if (r == 0)
            cr_assert(slice_eq_str((struct slice){out, len}, cases[i].bytes), "%s", cases[i].text);
    }
}

Test(codec, hex_percent_uuid)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    char one[UUID_TEXT_SIZE], two[UUID_TEXT_SIZE];

    hex_encode(&b, SLICE_LIT("\0\xff\x1a"));
    cr_assert_str_eq(b.data, "00ff1a");
    buf_reset(&b);
    cr_assert_eq(percent_decode(&b, SLICE_LIT("a%2Fb%2fc%zz%4%%41+%")), 0);
    cr_assert_str_eq(b.data, "a/b/c%zz%4%A+%");
    uuid4_text(one);
    uuid4_text(two);
    cr_assert_str_neq(one, two);
    cr_assert_eq(strlen(one), 36);
    for (size_t i = 0; i < 36; i++)
        cr_assert(i == 8 || i == 13 || i == 18 || i == 23
                      ? one[i] == '-'
                      : isxdigit((unsigned char)one[i]) && !isupper(one[i]));
    cr_assert_eq(one[14], '4');
    cr_assert(strchr("89ab", one[19]));
}

static void check_url(const char *text, const char *scheme, const char *user, const char *password,
                      const char *host, int port, const char *path, const char *query)
{
    CLEANUP(url_deinit) struct url u = {0};
    struct err e = ERR_INIT;

    cr_assert_eq(url_parse(text, &u, &e), 0, "%s: %s", text, e.text);
    cr_assert(str_eq(u.scheme, scheme), "%s", text);
    cr_assert(str_eq(u.user, user), "%s", text);
    cr_assert(str_eq(u.password, password), "%s", text);
    cr_assert(str_eq(u.host, host), "%s: %s", text, u.host);
    cr_assert_eq(u.port, port, "%s", text);
    cr_assert(str_eq(u.path, path), "%s: %s", text, u.path);
    cr_assert(str_eq(u.query, query), "%s", text);
}

Test(url, parts)
{
    check_url("redis://", "redis", NULL, NULL, "", 0, "", NULL);
    check_url("redis://localhost:6379/0", "redis", NULL, NULL, "localhost", 6379, "/0", NULL);
    check_url("REDIS://:p%40ss%3A@h:1/2?a=b&c", "redis", NULL, "p@ss:", "h", 1, "/2", "a=b&c");
    check_url("redis://us:a:b@c@h", "redis", "us", "a:b@c", "h", 0, "", NULL);
    check_url("rediss://u@[::1]:7/0", "rediss", "u", NULL, "::1", 7, "/0", NULL);
    check_url("redis+socket:///run/r.sock?virtual_host=1", "redis+socket", NULL, NULL, "", 0,
              "/run/r.sock", "virtual_host=1");
    check_url("file:///a%20b/c", "file", NULL, NULL, "", 0, "/a b/c", NULL);
    check_url("s3://bucket/a/b.zst", "s3", NULL, NULL, "bucket", 0, "/a/b.zst", NULL);
    check_url("sqlite:///x.db", "sqlite", NULL, NULL, "", 0, "/x.db", NULL);
    check_url("postgresql://h?host=/tmp/x", "postgresql", NULL, NULL, "h", 0, "", "host=/tmp/x");
    check_url("redis://h:/0", "redis", NULL, NULL, "h", 0, "/0", NULL);
}

Test(url, refusals_never_show_the_password)
{
    static const char *const bad[] = {
        "",
        "redis",
        "localhost:6379",
        "://x",
        "re dis://x",
        "redis://h:0",
        "redis://h:65536",
        "redis://h:secret",
        "redis://:secret/x@h/0",
        "redis://:secret#x@h/0",
        "redis://[::1",
        "redis://[::1]x",
        "redis://:secret%00@h",
        "file:///a#b",
        "1a?://x",
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        CLEANUP(url_deinit) struct url u = {0};
        struct err e = ERR_INIT;

        cr_assert_eq(url_parse(bad[i], &u, &e), -EINVAL, "%s", bad[i]);
        cr_assert(e.text[0] && !strstr(e.text, "secret"), "%s", e.text);
    }
}

Test(url, query_values)
{
    struct url u = {.query = (char *)(uintptr_t) "a=1&b=x%20y+z&a=2&flag&e=&k%3D=v=w"};
    static const char *const pairs[][2] = {
        {"a", "2"}, {"b", "x y z"}, {"flag", ""}, {"e", ""}, {"k=", "v=w"}};

    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        CLEANUP(mem_free) char *value = url_query(&u, pairs[i][0]);

        cr_assert(str_eq(value, pairs[i][1]), "%s", pairs[i][0]);
    }
    cr_assert_null(url_query(&u, "zz"));
    u.query = NULL;
    cr_assert_null(url_query(&u, "a"));
}

Test(url, masks_secrets)
{
    static const char *const pairs[][2] = {
        {"redis://:pw@h:1/0", "redis://:**@h:1/0"},
        {"redis://us:pw@h/0", "redis://us:**@h/0"},
        {"redis://us@h/0", "redis://us@h/0"},
        {"redis://h:6379/0", "redis://h:6379/0"},
        {"redis://:p@w@h/0", "redis://:**@h/0"},
        {"redis://:p/w@h/0", "redis://:**@h/0"},
        {"redis://:p#w@h/0", "redis://:**@h/0"},
        {"redis://:p?w@h/0", "redis://:**@h/0"},
        {"s3://bucket/mail@x", "s3://bucket/mail@x"},
        {"redis://h:6379/mail@x", "redis://h:6379/mail@x"},
        {"us:pw@h", "us:**@h"},
        {"nonsense", "nonsense"},
        {"", ""},
        {"pg://h/db?user=u&password=pw&sslmode=x", "pg://h/db?user=u&password=**&sslmode=x"},
        {"s3://b/?secret_access_key=k&session_token=t",
         "s3://b/?secret_access_key=**&session_token=**"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        CLEANUP(mem_free) char *masked = url_masked(pairs[i][0]);

        cr_assert_str_eq(masked, pairs[i][1]);
    }
}
