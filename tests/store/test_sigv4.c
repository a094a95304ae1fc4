/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures, beside the examples of Amazon's own documentation. */

#include "celeryc/store/sigv4.h"

#include <criterion/criterion.h>

static const char empty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/* https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html */
static struct sigv4 example(const char *method, const char *path, const char *hash,
                            const struct sigv4_header *h, size_t n)
{
    return (struct sigv4){.method = method,
                          .path = path,
                          .region = "us-east-1",
                          .service = "s3",
                          .key_id = "AKIAIOSFODNN7EXAMPLE",
                          .secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                          .date = "20130524T000000Z",
                          .payload_hash = hash,
                          .headers = h,
                          .n_headers = n};
}

Test(sigv4, get_object)
{
    const struct sigv4_header h[] = {{"x-amz-date", "20130524T000000Z"},
                                     {"x-amz-content-sha256", empty},
                                     {"range", "bytes=0-9"},
                                     {"host", "examplebucket.s3.amazonaws.com"}};
    struct sigv4 r = example("GET", "/test.txt", empty, h, ARRAY_SIZE(h));
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    cr_assert_eq(sigv4_authorization(&r, &b), 0);
    cr_assert_str_eq(
        b.data, "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/"
                "aws4_request, SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, Signature="
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
}

Test(sigv4, put_object)
{
    CLEANUP(buf_deinit) struct buf hash = BUF_INIT, b = BUF_INIT;

    cr_assert_eq(sigv4_hash(SLICE_LIT("Welcome to Amazon S3."), &hash), 0);
    const struct sigv4_header h[] = {{"x-amz-storage-class", "REDUCED_REDUNDANCY"},
                                     {"host", "examplebucket.s3.amazonaws.com"},
                                     {"date", "Fri, 24 May 2013 00:00:00 GMT"},
                                     {"x-amz-content-sha256", hash.data},
                                     {"x-amz-date", "20130524T000000Z"}};
    struct sigv4 r = example("PUT", "/test%24file.text", hash.data, h, ARRAY_SIZE(h));

    cr_assert_eq(sigv4_authorization(&r, &b), 0);
    cr_assert(strstr(b.data, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
              "%s", b.data);
}

/* A name goes before the longer one that begins with it. */
Test(sigv4, names_are_in_order)
{
    const struct sigv4_header h[] = {
        {"x-amz-server-side-encryption-aws-kms-key-id", "k"},
        {"x-amz-server-side-encryption", "aws:kms"},
    };
    struct sigv4 r = example("PUT", "/", empty, h, ARRAY_SIZE(h));
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    cr_assert_eq(sigv4_authorization(&r, &b), 0);
    cr_assert(strstr(b.data, "SignedHeaders=x-amz-server-side-encryption;x-amz-server-side-"
                             "encryption-aws-kms-key-id, "));
}

Test(sigv4, date)
{
    char date[SIGV4_DATE_SIZE];

    sigv4_date(1369353600, date);
    cr_assert_str_eq(date, "20130524T000000Z");
}
