/* SPDX-License-Identifier: Apache-2.0 */
/* Credentials from what services answer:
 *   {"AccessKeyId": ..., "SecretAccessKey": ..., "Token": ..., "Expiration": "2026-11-28T12:00:00Z", "Code": "Success"}
 *   <Credentials><AccessKeyId>...</AccessKeyId>, SecretAccessKey, SessionToken, Expiration */

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/message/json.h"
#include "celeryc/store/creds_priv.h"

#include <errno.h>
#include <openssl/crypto.h>

#define TOKEN_MAX 16384

static bool is_printable(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.p[i] <= 0x20 || (unsigned char)s.p[i] >= 0x7f)
            return false;
    return true;
}

/* A key's id stands unescaped among commas in a header. */
static bool is_key_id(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if (strchr(",/\"\\", s.p[i]))
            return false;
    return s.len && s.len <= 128 && is_printable(s);
}

void creds_deinit(struct creds *c)
{
    char *const texts[] = {c->key_id, c->secret, c->token};

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        if (texts[i])
            OPENSSL_cleanse(texts[i], strlen(texts[i]));
        free(texts[i]);
    }
    *c = (struct creds){0};
}

int creds_set(struct creds *ret_c, struct slice key_id, struct slice secret, struct slice token,
              struct slice expires, struct err *e)
{
    CLEANUP(creds_deinit) struct creds c = {0};

    if (!is_key_id(key_id))
        return err_set(e, -EINVAL, "the access key id %s",
                       key_id.len ? "holds characters that no key has" : "is missing");
    if (!secret.len || secret.len > 1024 || !is_printable(secret))
        return err_set(e, -EINVAL, "the secret access key %s",
                       secret.len ? "holds characters that no key has" : "is missing");
    if (token.len > TOKEN_MAX || !is_printable(token))
        return err_set(e, -EINVAL, "the session token holds characters that no key has");
    if (expires.len && clock_iso_parse(expires, &c.expires_us))
        return err_set(e, -EINVAL, "the time of expiry is no time");
    c.key_id = slice_dup(key_id);
    c.secret = slice_dup(secret);
    c.token = token.len ? slice_dup(token) : NULL;
    if (!c.key_id || !c.secret || (token.len && !c.token))
        return -ENOMEM;
    *ret_c = creds_take(&c);
    return 0;
}

static int member(struct arena *a, struct json_val v, const char *key, struct slice *ret_s)
{
    struct json_val m = json_get(v, key);

    *ret_s = SLICE_NULL;
    if (json_is_null(m))
        return 0;
    return json_string(a, m, ret_s);
}

int creds_parse_json(struct slice text, struct creds *ret_c, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct slice word, key, secret, token, expires;
    struct json_val v;
    int code;

    if (!a)
        return -ENOMEM;
    if (json_scan(text, &v, NULL) || v.kind != JSON_K_OBJECT)
        return err_set(e, -EINVAL, "the answer is no JSON object");
    code = member(a, v, "Code", &word);
    if (!code && word.len && !slice_eq_str(word, "Success"))
        return err_set(e, -EINVAL, "the answer is \"%.*s\"", (int)MIN(word.len, 80), word.p);
    if (!code)
        code = member(a, v, "AccessKeyId", &key);
    if (!code)
        code = member(a, v, "SecretAccessKey", &secret);
    if (!code)
        code = member(a, v, "Token", &token);
    if (!code)
        code = member(a, v, "Expiration", &expires);
    if (code)
        return code == -ENOMEM ? code : err_set(e, -EINVAL, "the answer's values are no texts");
    return creds_set(ret_c, key, secret, token, expires, e);
}

int creds_parse_sts(struct slice xml, struct creds *ret_c, struct err *e)
{
    char key[256], secret[2048], token[TOKEN_MAX + 2], expires[64];
    int code;

    aws_element(xml, "AccessKeyId", key, sizeof(key));
    aws_element(xml, "SecretAccessKey", secret, sizeof(secret));
    aws_element(xml, "SessionToken", token, sizeof(token));
    aws_element(xml, "Expiration", expires, sizeof(expires));
    code = creds_set(ret_c, slice_str(key), slice_str(secret), slice_str(token), slice_str(expires),
                     e);
    OPENSSL_cleanse(secret, sizeof(secret));
    OPENSSL_cleanse(token, sizeof(token));
    return code;
}
