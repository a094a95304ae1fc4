/* SPDX-License-Identifier: Apache-2.0 */
/* planner/report.c: cells that a spreadsheet may open. */

#include "planner/report.h"

#include <criterion/criterion.h>

static const struct {
    const char *text, *cell;
} cells[] = {
    {"plain", "plain"},
    {"", ""},
    {"a,b", "\"a,b\""},
    {"say \"no\"", "\"say \"\"no\"\"\""},
    {"two\r\nlines", "\"two\r\nlines\""},
    {"=1+2", "\"'=1+2\""},
    {"@sum", "\"'@sum\""},
    {"-cmd|x", "\"'-cmd|x\""},
    {"\tx", "\"'\tx\""},
    {"+84912", "+84912"}, /* a number stays one */
    {"-5", "-5"},
    {"-", "\"'-\""},
};

Test(report, cells_are_rfc_4180_and_no_formulas)
{
    for (size_t i = 0; i < ARRAY_SIZE(cells); i++) {
        CLEANUP(buf_deinit) struct buf b = BUF_INIT;

        report_csv_cell(&b, slice_str(cells[i].text));
        buf_append_char(&b, '|');
        cr_assert_eq(buf_ok(&b), 0);
        b.data[b.len - 1] = '\0';
        cr_assert_str_eq(b.data, cells[i].cell);
    }
    CLEANUP(buf_deinit) struct buf null = BUF_INIT;

    report_csv_cell(&null, SLICE_NULL);
    cr_assert_eq(null.len, 0);
}
