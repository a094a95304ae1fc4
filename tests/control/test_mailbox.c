/* SPDX-License-Identifier: Apache-2.0 */
/* Broadcasts as bytes: who is meant, what is refused; and the bounded set of revoked ids. */

#include "celeryc/control/control_priv.h"

#include "celeryc/base/codec.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>

static int read_body(struct arena *a, const char *body, struct mailbox_message *ret_m,
                     struct err *e)
{
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    mailbox_write(&raw, NULL, slice_str(body), SLICE_LIT("{\"clock\": 7, \"expires\": 0}"),
                  SLICE_LIT("celery.pidbox"), SLICE_LIT(""), 2);
    char *kept = arena_strdup(a, buf_slice(&raw));
    return mailbox_parse(a, NULL, "w1@h", (struct slice){kept, raw.len}, ret_m, e);
}

struct body_case {
    char body[200];
    int r;
    bool for_us, wants_reply;
};

ParameterizedTestParameters(mailbox, bodies)
{
    static struct body_case cases[] = {
        {"{\"method\": \"ping\"}", 0, true, false},
        {"{\"method\": \"ping\", \"destination\": null, \"pattern\": null, \"matcher\": null}", 0,
         true, false},
        {"{\"method\": \"ping\", \"destination\": []}", 0, true, false},
        {"{\"method\": \"ping\", \"destination\": [\"w2@h\", \"w1@h\"]}", 0, true, false},
        {"{\"method\": \"ping\", \"destination\": [\"w2@h\", 5]}", 0, false, false},
        {"{\"method\": \"ping\", \"destination\": \"w1@h,w2@h\"}", 0, true, false},
        {"{\"method\": \"ping\", \"destination\": 5}", 0, false, false},
        {"{\"method\": \"ping\", \"destination\": [\"w2@h\"], \"pattern\": \"*\", \"matcher\": "
         "\"glob\"}",
         0, false, false},
        {"{\"method\": \"ping\", \"pattern\": \"w2*\"}", 0, true, false},
        {"{\"method\": \"ping\", \"pattern\": \"w2*\", \"matcher\": \"glob\"}", 0, false, false},
        {"{\"method\": \"ping\", \"pattern\": \"w2\", \"matcher\": \"none\"}", -EINVAL, false,
         false},
        {"{\"method\": \"ping\", \"reply_to\": {\"exchange\": \"e\", \"routing_key\": \"k\"}}", 0,
         true, true},
        {"{\"method\": \"ping\", \"reply_to\": {\"exchange\": \"e\"}}", -EINVAL, false, false},
        {"{\"method\": \"ping\", \"reply_to\": 5}", -EINVAL, false, false},
        {"{\"arguments\": {}}", -EINVAL, false, false},
        {"[]", -EINVAL, false, false},
        {"{\"method\": ", -EINVAL, false, false},
    };
    return cr_make_param_array(struct body_case, cases, ARRAY_SIZE(cases));
}

ParameterizedTest(struct body_case *c, mailbox, bodies)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct mailbox_message m;
    struct err e = ERR_INIT;
    int r = read_body(a, c->body, &m, &e);
    cr_assert_eq(r, c->r, "%s: %d %s", c->body, r, e.text);
    if (r) {
        cr_assert(e.text[0]);
        return;
    }
    cr_assert_eq(m.clock, 7);
    cr_assert_eq(m.for_us, c->for_us, "%s", c->body);
    cr_assert_eq(m.wants_reply, c->wants_reply, "%s", c->body);
}

Test(mailbox, refuses_other_envelopes)
{
    static const char *const raws[] = {
        "",
        "[]",
        "{}",
        "{\"properties\": {}, \"content-type\": \"application/json\"}",
        "{\"properties\": {}, \"content-type\": \"application/x-yaml\", \"body\": \"{}\"}",
        "{\"properties\": [], \"content-type\": \"application/json\", \"body\": \"{}\"}",
        "{\"properties\": {\"body_encoding\": \"base64\"}, \"content-type\": \"application/json\", "
        "\"body\": \"e\"}",
    };
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct mailbox_message m;
    for (size_t i = 0; i < ARRAY_SIZE(raws); i++) {
        struct err e = ERR_INIT;
        cr_assert_eq(mailbox_parse(a, NULL, "w", slice_str(raws[i]), &m, &e), -EINVAL, "%s",
                     raws[i]);
        cr_assert(e.text[0], "%s", raws[i]);
    }
    /* A body that is not base64 is read as it stands, as kombu does. */
    cr_assert_eq(
        mailbox_parse(a, NULL, "w",
                      SLICE_LIT("{\"properties\": {}, \"content-type\": "
                                "\"application/json\", \"body\": \"{\\\"method\\\": 5}\"}"),
                      &m, NULL),
        0);
    cr_assert_eq(m.method.kind, JSON_K_INT);
}

Test(revoked, keeps_the_newest_in_order)
{
    CLEANUP(revoked_free) struct revoked *r = revoked_new(3, 10);
    cr_assert_eq(revoked_add(r, SLICE_LIT("a"), 1), 0);
    cr_assert_eq(revoked_add(r, SLICE_LIT("b"), 2), 0);
    cr_assert_eq(revoked_add(r, SLICE_LIT("a"), 3), 0);
    cr_assert_eq(revoked_add(r, SLICE_LIT("c"), 4), 0);
    cr_assert_eq(revoked_len(r), 3);
    cr_assert_eq(revoked_add(r, SLICE_LIT("d"), 5), 0);
    cr_assert_not(revoked_has(r, SLICE_LIT("b")), "the oldest leaves");
    cr_assert(revoked_has(r, SLICE_LIT("a")));
    revoked_purge(r, 14);
    cr_assert_not(revoked_has(r, SLICE_LIT("a")));
    cr_assert_not(revoked_has(r, SLICE_LIT("c")));
    cr_assert(revoked_has(r, SLICE_LIT("d")));
    cr_assert_eq(revoked_len(r), 1);
}
