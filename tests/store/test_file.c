/* SPDX-License-Identifier: Apache-2.0 */
/* Objects as files: whole or not at all, never outside of the store. */

#include "celeryc/store/store.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/store-test-XXXXXX";
static struct store *store;

static void open_store(void)
{
    char url[128];
    struct err e = ERR_INIT;

    cr_assert(mkdtemp(root));
    (void)snprintf(url, sizeof(url), "file://%s/a%%20store/", root);
    cr_assert_eq(store_open(url, &store, &e), 0, "%s", e.text);
}

static void remove_tree(const char *path)
{
    DIR *d = opendir(path);

    for (struct dirent *it; d && (it = readdir(d));) {
        char child[512];

        if (str_eq(it->d_name, ".") || str_eq(it->d_name, ".."))
            continue;
        (void)snprintf(child, sizeof(child), "%s/%s", path, it->d_name);
        if (it->d_type == DT_DIR)
            remove_tree(child);
        else
            (void)unlink(child);
    }
    if (d)
        (void)closedir(d);
    (void)rmdir(path);
}

static void close_store(void)
{
    store = store_close(store);
    remove_tree(root);
}

static size_t entries(const char *below)
{
    char path[256];
    size_t n = 0;
    DIR *d;

    (void)snprintf(path, sizeof(path), "%s/%s", root, below);
    d = opendir(path);
    while (d && readdir(d))
        n++;
    if (d)
        (void)closedir(d);
    return n ? n - 2 : 0;
}

TestSuite(file, .init = open_store, .fini = close_store);

Test(file, put_get_delete)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    CLEANUP(mem_free) char *url = NULL;
    struct err e = ERR_INIT;
    char expected[128];

    cr_assert_eq(store_get(store, "plan/x", 0, &b, &e), STORE_E_NOT_FOUND);
    cr_assert_eq(store_put(store, "plan/x", SLICE_LIT("one"), "text/plain", 0, NULL), 0);
    cr_assert_eq(store_put(store, "plan/x", SLICE_LIT("second"), NULL, 0, NULL), 0);
    cr_assert_eq(store_put(store, "plan/empty", SLICE_NULL, NULL, 0, NULL), 0);
    buf_append_str(&b, "> ");
    cr_assert_eq(store_get(store, "plan/x", 0, &b, NULL), 0);
    cr_assert_eq(store_get(store, "plan/empty", 0, &b, NULL), 0);
    cr_assert_str_eq(b.data, "> second");
    cr_assert_eq(entries("a store/plan"), 2, "no temporary file stays");
    url = store_object_url(store, "plan/x");
    (void)snprintf(expected, sizeof(expected), "file://%s/a%%20store/plan/x", root);
    cr_assert_str_eq(url, expected);
    cr_assert_eq(store_delete(store, "plan/x", 0, NULL), 0);
    cr_assert_eq(store_delete(store, "plan/x", 0, NULL), 0);
    cr_assert_eq(entries("a store/plan"), 1);
    cr_assert_eq(store_delete(store, "plan/empty", 0, NULL), 0);
    cr_assert_eq(entries("a store"), 0, "the empty folder goes as well");
    cr_assert_eq(entries(""), 1, "but not the store");
}

Test(file, names_stay_inside)
{
    const char *names[] = {"",    "/etc/passwd", "..",   "../x", "a/../../x", "a//b", "a/",
                           "./a", "a/.",         "a\\b", "a\nb", "a/..",      "\x7f"};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct err e = ERR_INIT;

        cr_expect_eq(store_put(store, names[i], SLICE_LIT("x"), NULL, 0, &e), -EINVAL, "%zu", i);
        cr_expect_eq(store_get(store, names[i], 0, &b, &e), -EINVAL, "%zu", i);
        cr_expect_eq(store_delete(store, names[i], 0, &e), -EINVAL, "%zu", i);
        cr_expect(strstr(e.text, "is no safe object name"), "%s", e.text);
    }
    cr_assert_eq(entries(""), 0);
    cr_assert_eq(store_put(store, "a/..b/c", SLICE_LIT("x"), NULL, 0, NULL), 0);
}

Test(file, obstacles_are_named)
{
    CLEANUP(store_close) struct store *deep = NULL;
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    char url[128];
    struct err e = ERR_INIT;

    (void)snprintf(url, sizeof(url), "file://%s/no/mount", root);
    cr_assert_eq(store_open(url, &deep, &e), 0);
    cr_assert_eq(store_put(deep, "x", SLICE_LIT("x"), NULL, 0, &e), -ENOENT);
    cr_assert(strstr(e.text, "/no does not exist: create it, or correct the store URL"), "%s",
              e.text);
    cr_assert_eq(store_put(store, "dir/x", SLICE_LIT("x"), NULL, 0, NULL), 0);
    e = ERR_INIT;
    cr_assert_eq(store_get(store, "dir", 0, &b, &e), -EINVAL);
    cr_assert(strstr(e.text, "not a regular file"), "%s", e.text);
    e = ERR_INIT;
    cr_assert_eq(store_get(store, "dir/x/y", 0, &b, &e), STORE_E_NOT_FOUND);
    cr_assert_neq(store_put(store, "dir", SLICE_LIT("x"), NULL, 0, &e), 0,
                  "a folder is in the way");
    cr_assert_eq(entries("a store"), 1, "no temporary file stays");
}

Test(file, urls)
{
    const char *bad[] = {"file://dir", "file://host/dir", "/dir", "", "file:///a%00b"};
    CLEANUP(store_close) struct store *s = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct err e = ERR_INIT;

        cr_expect_eq(store_open(bad[i], &s, &e), -EINVAL, "%s", bad[i]);
        cr_expect(e.text[0]);
    }
    cr_assert_eq(store_open("file://localhost/tmp/x//", &s, NULL), 0);
    cr_assert_str_eq(store_url(s), "file://localhost/tmp/x");
}

Test(file, split)
{
    const char *bad[] = {"x",        "s3://bucket",      "s3://bucket/",
                         "file:///", "s3://bucket/a/..", "://x"};
    CLEANUP(mem_free) char *url = NULL;
    CLEANUP(mem_free) char *name = NULL;

    cr_assert_eq(store_split("s3://bucket/pre/plan/batch-1.zst", &url, &name, NULL), 0);
    cr_assert_str_eq(url, "s3://bucket/pre/plan");
    cr_assert_str_eq(name, "batch-1.zst");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        char *a = NULL, *b = NULL;
        struct err e = ERR_INIT;

        cr_expect_eq(store_split(bad[i], &a, &b, &e), -EINVAL, "%s", bad[i]);
    }
}
