/* SPDX-License-Identifier: Apache-2.0 */
/* The small parsers of base: times, numbers, base64, percent escapes, URLs. */

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/num.h"
#include "celeryc/base/url.h"
#include "fuzz.h"

static void check_time(struct slice s)
{
    char text[CLOCK_ISO_SIZE];
    int64_t us, back;

    if (clock_iso_parse(s, &us))
        return;
    clock_iso_format(us, text);
    ASSERT(clock_iso_parse(slice_str(text), &back) == 0 && back == us);
}

static void check_numbers(struct slice s)
{
    int64_t i;
    uint64_t u;
    uint32_t w;
    double d;

    (void)!num_parse_f64(s, &d);
    (void)!num_parse_duration_ns(s, &i);
    if (num_parse_u32(s, &w) == 0)
        ASSERT(num_parse_u64(s, &u) == 0 && u == w && num_parse_i64(s, &i) == 0);
}

static void check_base64(struct slice s)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    CLEANUP(buf_deinit) struct buf back = BUF_INIT;
    CLEANUP(buf_deinit) struct buf strict = BUF_INIT;
    CLEANUP(mem_free) char *lax = malloc(BASE64_DECODED_MAX(s.len));
    size_t len;

    base64_encode(&text, s);
    ASSERT(base64_decode(&back, buf_slice(&text)) == 0 && slice_eq(buf_slice(&back), s));
    if (base64_decode(&strict, s) == 0)
        ASSERT(base64_decode_to(lax, s, true, &len) == 0 &&
               slice_eq(buf_slice(&strict), (struct slice){lax, len}));
    else
        (void)!base64_decode_to(lax, s, true, &len);
}

static void check_url(struct slice s)
{
    CLEANUP(buf_deinit) struct buf decoded = BUF_INIT;
    CLEANUP(mem_free) char *text = slice_dup(s), *masked = url_masked(text), *value = NULL;
    CLEANUP(url_deinit) struct url u = {0};
    struct err e = ERR_INIT;

    ASSERT(masked);
    ASSERT(percent_decode(&decoded, s) == 0);
    if (url_parse(text, &u, &e) == 0)
        value = url_query(&u, "a");
    else
        ASSERT(e.text[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice s = {(const char *)data, size};

    check_time(s);
    check_numbers(s);
    check_base64(s);
    check_url(s);
    return 0;
}
