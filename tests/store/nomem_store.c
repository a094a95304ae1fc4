/* SPDX-License-Identifier: Apache-2.0 */
/* Settings, credentials and signatures with every allocation failing once. */

#include "celeryc/store/creds_priv.h"
#include "celeryc/store/sigv4.h"
#include "nomem.h"

#include <errno.h>

#define JSON                                                                           \
    "{\"AccessKeyId\": \"AK\\u0049D\", \"SecretAccessKey\": \"s\", \"Token\": \"t\", " \
    "\"Expiration\": \"2033-05-18T03:33:20Z\"}"

static int read_ini(void)
{
    CLEANUP(aws_ini_deinit) struct aws_ini ini = {0};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    int code;

    for (int i = 0; i < 40; i++)
        buf_appendf(&b, "[profile p%d]\ns3 =\n  addressing_style = path\n", i);
    if (buf_ok(&b))
        return -ENOMEM;
    code = aws_ini_parse(buf_slice(&b), &ini, NULL);
    if (!code)
        ASSERT(str_eq(aws_ini_get(&ini, "profile p39", "s3.addressing_style"), "path"));
    return code;
}

static int load_settings(void)
{
    CLEANUP(aws_settings_deinit) struct aws_settings s = {0};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    int code = aws_settings_load(&s, NULL);

    if (code)
        return code;
    aws_settings_amazon(&s, "s3", "eu-west-3", &b);
    return buf_ok(&b);
}

static int parse_answers(void)
{
    CLEANUP(creds_deinit) struct creds json = {0}, sts = {0};
    int code = creds_parse_json(SLICE_LIT(JSON), &json, NULL);

    if (!code)
        code = creds_parse_sts(SLICE_LIT("<AccessKeyId>A</AccessKeyId><SecretAccessKey>s"
                                         "</SecretAccessKey><SessionToken>t</SessionToken>"),
                               &sts, NULL);
    if (!code)
        ASSERT(str_eq(json.key_id, "AKID") && str_eq(sts.token, "t"));
    return code;
}

static int search(void)
{
    CLEANUP(creds_deinit) struct creds c = {0};

    return creds_chain(NULL, 1000, &c, NULL);
}

static int64_t now(void)
{
    return 1;
}

static int keep(void)
{
    CLEANUP(creds_keeper_free)
    struct creds_keeper *k = creds_keeper_new(&(struct creds_ways){creds_chain, now});
    CLEANUP(creds_deinit) struct creds c = {0};

    return k ? creds_get(k, 1000, &c, NULL) : -ENOMEM;
}

static int sign(void)
{
    const struct sigv4_header h[] = {{"host", "h"}};
    CLEANUP(buf_deinit) struct buf hash = BUF_INIT, b = BUF_INIT;
    int code = sigv4_hash(SLICE_LIT("x"), &hash);

    if (code)
        return code;
    return sigv4_authorization(&(struct sigv4){.method = "GET",
                                               .path = "/",
                                               .region = "r",
                                               .service = "s3",
                                               .key_id = "k",
                                               .secret = "s",
                                               .date = "20260101T000000Z",
                                               .payload_hash = hash.data,
                                               .headers = h,
                                               .n_headers = 1},
                               &b);
}

int main(void)
{
    ASSERT(setenv("HOME", "/nonexistent", 1) == 0);
    ASSERT(setenv("AWS_ACCESS_KEY_ID", "AKID", 1) == 0);
    ASSERT(setenv("AWS_SECRET_ACCESS_KEY", "s", 1) == 0);
    ASSERT(setenv("AWS_SESSION_TOKEN", "t", 1) == 0);
    return nomem_sweep("ini", read_ini) && nomem_sweep("settings", load_settings) &&
                   nomem_sweep("answers", parse_answers) && nomem_sweep("chain", search) &&
                   nomem_sweep("keeper", keep) && nomem_sweep("signature", sign)
               ? 0
               : 1;
}
