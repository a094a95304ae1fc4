/* SPDX-License-Identifier: Apache-2.0 */
/* Names, digests and ids that planner, workers and senders in other languages derive alike. Pure functions. */

#include "celeryc/batch/batch_priv.h"

#include <openssl/evp.h>
#include <strings.h>

static const char hex_digits[] = "0123456789abcdef";

static void digest(const EVP_MD *type, struct slice a, struct slice b,
                   unsigned char out[EVP_MAX_MD_SIZE])
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    unsigned n = 0;

    /* Plain digests of bytes in memory fail only without memory or without libcrypto's default provider. */
    ASSERT(c && EVP_DigestInit_ex(c, type, NULL) == 1 && EVP_DigestUpdate(c, a.p, a.len) == 1 &&
           EVP_DigestUpdate(c, b.p, b.len) == 1 && EVP_DigestFinal_ex(c, out, &n) == 1);
    EVP_MD_CTX_free(c);
}

void batch_sha256(struct slice bytes, char hex[65])
{
    unsigned char d[EVP_MAX_MD_SIZE];

    digest(EVP_sha256(), bytes, SLICE_NULL, d);
    for (size_t i = 0; i < 32; i++) {
        hex[2 * i] = hex_digits[d[i] >> 4];
        hex[2 * i + 1] = hex_digits[d[i] & 15];
    }
    hex[64] = '\0';
}

void batch_object_name(int64_t batch, char dst[40])
{
    (void)snprintf(dst, 40, "batch-%06lld.ndjson.zst", (long long)batch);
}

void batch_name_id(struct slice name, char dst[37])
{
    /* RFC 4122, NAMESPACE_URL */
    static const char namespace[16] = {
        0x6b,       (char)0xa7, (char)0xb8, 0x11,       (char)0x9d, (char)0xad, 0x11, (char)0xd1,
        (char)0x80, (char)0xb4, 0x00,       (char)0xc0, 0x4f,       (char)0xd4, 0x30, (char)0xc8};
    unsigned char d[EVP_MAX_MD_SIZE];
    size_t out = 0;

    digest(EVP_sha1(), (struct slice){namespace, 16}, name, d);
    d[6] = (unsigned char)((d[6] & 0x0f) | 0x50);
    d[8] = (unsigned char)((d[8] & 0x3f) | 0x80);
    for (size_t i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            dst[out++] = '-';
        dst[out++] = hex_digits[d[i] >> 4];
        dst[out++] = hex_digits[d[i] & 15];
    }
    dst[out] = '\0';
}

void batch_task_id(const char *plan, int64_t batch, char dst[37])
{
    CLEANUP(buf_deinit) struct buf name = BUF_INIT;

    buf_appendf(&name, "scatter:%s:%lld", plan, (long long)batch);
    ASSERT(buf_ok(&name) == 0);
    batch_name_id(buf_slice(&name), dst);
}

static bool one_of(const char *type, size_t len, const char *const *names)
{
    for (; *names; names++)
        if (strlen(*names) == len && strncasecmp(type, *names, len) == 0)
            return true;
    return false;
}

enum batch_kind batch_kind_of_type(const char *type)
{
    static const char *const integers[] = {
        "int2",        "int4",   "int8",      "smallint", "integer",   "bigint",  "int",
        "smallserial", "serial", "bigserial", "oid",      "mediumint", "tinyint", NULL};
    static const char *const booleans[] = {"bool", "boolean", NULL};
    size_t len;

    if (!type)
        return BATCH_TEXT;
    len = strcspn(type, " (["); /* "integer unsigned", "int(11)"; "integer[]" is an array */
    if (type[len] == '[')
        return BATCH_TEXT;
    if (one_of(type, len, integers))
        return BATCH_NUMBER;
    return one_of(type, len, booleans) ? BATCH_BOOL : BATCH_TEXT;
}
