/* SPDX-License-Identifier: Apache-2.0 */
/* What holds AWS settings and credentials. The first byte says what the rest is: 'i' a settings file, 'j' the answer of a
 * container endpoint or the instance metadata, 'x' one of STS. */

#include "fuzz.h"

#include "celeryc/store/aws_ini.h"
#include "celeryc/store/creds_priv.h"

static void parse_ini(struct slice text)
{
    CLEANUP(aws_ini_deinit) struct aws_ini ini = {0};
    struct err e = ERR_INIT;

    if (aws_ini_parse(text, &ini, &e)) {
        ASSERT(e.text[0]);
        return;
    }
    for (size_t i = 0; i < ini.n; i++) {
        const struct aws_ini_entry *x = &ini.entries[i];

        ASSERT(*x->section && aws_ini_has(&ini, x->section));
        if (x->key)
            ASSERT(*x->key && !strchr(x->value, '\n'));
        if (x->key)
            (void)aws_ini_get(&ini, x->section, x->key);
    }
}

/* Nothing that is accepted can break out of a header. */
static void look(int code, struct creds *c, const struct err *e)
{
    if (code) {
        ASSERT(e->text[0] && !c->key_id && !c->secret && !c->token);
        return;
    }
    for (const char *p = c->key_id; *p; p++)
        ASSERT(*p > ' ' && *p < 0x7f && *p != ',' && *p != '/');
    for (const char *p = c->token ? c->token : ""; *p; p++)
        ASSERT(*p > ' ' && *p < 0x7f);
    ASSERT(*c->key_id && *c->secret && c->expires_us != INT64_MAX);
    creds_deinit(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice rest = {(const char *)data + 1, size - 1};
    struct creds c = {0};
    struct err e = ERR_INIT;

    if (size == 0)
        return 0;
    if (data[0] == 'i')
        parse_ini(rest);
    else if (data[0] == 'j')
        look(creds_parse_json(rest, &c, &e), &c, &e);
    else if (data[0] == 'x')
        look(creds_parse_sts(rest, &c, &e), &c, &e);
    return 0;
}
