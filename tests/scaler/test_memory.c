/* SPDX-License-Identifier: Apache-2.0 */
/* The text in the Lease, written and read, and what is no such text. */

#include "k8s/scaler/memory.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>

Test(memory, comes_back)
{
    CLEANUP(buf_deinit) struct buf first = BUF_INIT, second = BUF_INIT;
    struct memory m, again;
    struct err e = ERR_INIT;

    memory_init(&m);
    m.d.wishes[m.d.n_wishes++] = (struct decide_wish){1800000000, 7};
    m.d.last_up = 1800000000;
    m.d.fails = 3;
    m.d.budget_spent = 1.25;
    m.rate = 0.1;
    (void)snprintf(m.run_id, sizeof(m.run_id), "abc");
    cr_assert(zero(int, memory_add_node(&m, SLICE_LIT("w\"1@p"), 12)));
    memory_write(&first, &m);
    cr_assert(zero(int, memory_parse(buf_slice(&first), &again, &e)));
    memory_write(&second, &again);
    cr_assert(eq(str, first.data, second.data));
    cr_assert(eq(i64, again.d.last_up, 1800000000));
    cr_assert(eq(i64, again.d.last_down, DECIDE_NEVER));
    cr_assert(eq(i64, memory_find_node(&again, "w\"1@p")->processed, 12));
    memory_deinit(&m);
    memory_deinit(&again);
}

/* None, or a newer member, is no mistake. */
Test(memory, what_is_not_there)
{
    struct memory m;

    cr_assert(zero(int, memory_parse(SLICE_NULL, &m, NULL)));
    cr_assert(eq(i64, m.d.last_up, DECIDE_NEVER));
    cr_assert(zero(int, memory_parse(SLICE_LIT("{\"v\": 1, \"newer\": [1]}"), &m, NULL)));
    cr_assert(zero(int, memory_parse(SLICE_LIT("{}"), &m, NULL)));
}

Test(memory, mistakes)
{
    static const char *const texts[] = {
        "",
        "[]",
        "{\"v\": 2}",
        "{\"wishes\": {}}",
        "{\"wishes\": [[1]]}",
        "{\"wishes\": [[1, -1]]}",
        "{\"wishes\": [[1, 1.5]]}",
        "{\"wishes\": [[1, 1]], \"wishes\": [[1, 1]]}",
        "{\"last_up\": -5}",
        "{\"last_up\": 1e300}",
        "{\"last_up\": \"yesterday\"}",
        "{\"nodes\": {\"a\": -1}}",
        "{\"nodes\": [1]}",
        "{\"run_id\": 5}",
        "{\"run_id\": \"0123456789012345678901234567890123456789012345678\"}",
        "{\"rate\": NaN}",
        "{\"rate\": Infinity}",
    };

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct memory m;
        struct err e = ERR_INIT;

        cr_assert(eq(int, memory_parse(slice_str(texts[i]), &m, &e), -EINVAL), "%s", texts[i]);
        cr_assert(ne(chr, e.text[0], '\0'));
        cr_assert(zero(sz, m.n_nodes + m.d.n_wishes));
    }
}

Test(memory, at_most_so_much)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    struct memory m;

    buf_append_str(&text, "{\"wishes\": [[1, 1]");
    for (int i = 0; i < DECIDE_MEMORY; i++)
        buf_append_str(&text, ", [1, 1]");
    buf_append_str(&text, "]}");
    cr_assert(eq(int, memory_parse(buf_slice(&text), &m, NULL), -EINVAL));
}
