/* SPDX-License-Identifier: Apache-2.0 */
/* Slices, growing buffers, arenas and error texts. */

#include "celeryc/base/arena.h"
#include "celeryc/base/err.h"

#include <criterion/criterion.h>
#include <errno.h>

Test(buf, grows_and_stays_terminated)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    CLEANUP(mem_free) char *taken = NULL;

    for (int i = 0; i < 1000; i++) {
        buf_append_char(&b, (char)('a' + i % 26));
        cr_assert_eq(b.data[b.len], '\0');
    }
    cr_assert_eq(b.len, 1000);
    buf_consume(&b, 998);
    cr_assert_str_eq(b.data, "kl");
    buf_appendf(&b, "%s-%d-%0200d", "x", 7, 5);
    cr_assert_eq(b.len, 2 + 4 + 200);
    cr_assert_eq(b.data[b.len - 1], '5');
    buf_reset(&b);
    cr_assert_eq(b.len, 0);
    buf_append_u32le(&b, 0x01020304);
    buf_append_u64le(&b, UINT64_C(0x05060708090a0b0c));
    cr_assert_eq(memcmp(b.data, "\4\3\2\1\x0c\x0b\x0a\x09\x08\x07\x06\x05", 12), 0);
    taken = buf_take(&b);
    cr_assert_eq(b.data, NULL);
    cr_assert(taken);
}

Test(buf, remembers_a_failure)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_append_str(&b, "abc");
    buf_reserve(&b, SIZE_MAX - 2);
    cr_assert_eq(buf_ok(&b), -ENOMEM);
    buf_append_str(&b, "def");
    cr_assert_eq(b.len, 3);
    cr_assert_null(buf_take(&b));
    buf_append_str(&b, "fresh");
    cr_assert_eq(buf_ok(&b), 0);
}

Test(buf, empty_gives_an_empty_string)
{
    struct buf b = BUF_INIT;
    CLEANUP(mem_free) char *taken = buf_take(&b);

    cr_assert_str_eq(taken, "");
}

Test(slice, compares)
{
    CLEANUP(mem_free) char *copy = slice_dup((struct slice){"abcd", 2});

    cr_assert(slice_eq(SLICE_NULL, SLICE_LIT("")));
    cr_assert(!slice_eq(SLICE_LIT("a"), SLICE_LIT("b")));
    cr_assert(slice_eq_str((struct slice){"abc", 2}, "ab"));
    cr_assert(str_eq(NULL, NULL) && !str_eq("a", NULL) && !str_eq(NULL, "") && str_eq("a", "a"));
    cr_assert_str_eq(copy, "ab");
}

Test(arena, gives_zeroed_aligned_memory)
{
    CLEANUP(arena_free) struct arena *a = arena_new();

    for (int round = 0; round < 3; round++) {
        for (size_t size = 0; size < 300; size += 7) {
            unsigned char *p = arena_alloc(a, size);

            cr_assert_eq((uintptr_t)p % _Alignof(max_align_t), 0);
            for (size_t i = 0; i < size; i++)
                cr_assert_eq(p[i], 0);
            memset(p, 0xaa, size);
        }
        cr_assert(arena_used(a) >= 300 * 42 / 2);
        arena_reset(a);
        cr_assert_eq(arena_used(a), 0);
    }
    cr_assert(arena_alloc(a, 100000), "bigger than a block");
    cr_assert_null(arena_alloc(a, SIZE_MAX));
    cr_assert_null(arena_alloc_array(a, SIZE_MAX / 2, 4));
    cr_assert_str_eq(arena_strdup(a, (struct slice){"abc", 2}), "ab");
    cr_assert_str_eq(arena_printf(a, "%d-%s", 5, "x"), "5-x");
}

Test(err, first_text_wins)
{
    struct err e = ERR_INIT;

    cr_assert_eq(err_set(&e, -EINVAL, "first %d", 1), -EINVAL);
    cr_assert_eq(err_set(&e, -EIO, "second"), -EIO);
    cr_assert_str_eq(err_text(&e, -EIO), "first 1");
    cr_assert_eq(err_prefix(&e, 5, "file %s", "x"), 5);
    cr_assert_str_eq(e.text, "file x: first 1");
    cr_assert_eq(err_set(NULL, 3, "x"), 3);
    cr_assert_eq(err_prefix(NULL, 3, "x"), 3);
}

Test(err, falls_back_to_errno)
{
    struct err e = ERR_INIT;

    cr_assert_str_eq(err_text(&e, -ENOENT), "No such file or directory");
    cr_assert_str_eq(err_text(NULL, ENOENT), "No such file or directory");
    cr_assert(strlen(err_errno(123456)) > 0);
    err_prefix(&e, 1, "alone");
    cr_assert_str_eq(e.text, "alone");
}

Test(err, cuts_long_texts)
{
    struct err e = ERR_INIT;

    err_set(&e, 1, "%05000d", 1);
    cr_assert_eq(strlen(e.text), sizeof(e.text) - 1);
    err_prefix(&e, 1, "%05000d", 1);
    cr_assert_eq(strlen(e.text), sizeof(e.text) - 1);
}
