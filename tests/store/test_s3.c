/* SPDX-License-Identifier: Apache-2.0 */
/* The S3 client against a server whose faults come at exact moments: what is retried, what is not, and what is said.
 * (Signatures are checked by a real server in interop_tests/test_store.py.) */

#include "celeryc/store/store.h"
#include "fake_server.h"

#include <criterion/criterion.h>
#include <errno.h>

#define ERROR(code, message) \
    "<?xml version=\"1.0\"?><Error><Code>" code "</Code><Message>" message "</Message></Error>"

static struct fake_server *fake;
static struct store *store;

static void set(const char *name, const char *value)
{
    cr_assert_eq(setenv(name, value, 1), 0);
}

static void use(const struct fake_step *steps, size_t n, const char *url)
{
    char endpoint[64];
    struct err e = ERR_INIT;

    fake = fake_server_start(steps, n);
    (void)snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:%d/", fake_server_port(fake));
    set("AWS_ENDPOINT_URL_S3", endpoint);
    set("AWS_ACCESS_KEY_ID", "AKID");
    set("AWS_SECRET_ACCESS_KEY", "se/cret:x=");
    set("NO_PROXY", "127.0.0.1");
    cr_assert_eq(store_open(url, &store, &e), 0, "%s", e.text);
}

static void finish(void)
{
    store = store_close(store);
    fake = fake_server_stop(fake);
}

static const char *head(size_t i)
{
    return fake_server_request(fake, i)->head;
}

static void expect_get(const char *text)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct err e = ERR_INIT;

    buf_append_str(&b, "before ");
    cr_assert_eq(store_get(store, "p/a", 0, &b, &e), 0, "%s", e.text);
    cr_assert_str_eq(b.data + 7, text);
}

Test(s3, requests_are_signed_and_complete, .fini = finish)
{
    const struct fake_step steps[] = {{FAKE_ANSWER, 200, ""}};
    struct err e = ERR_INIT;

    set("AWS_SESSION_TOKEN", "tok/en+==");
    set("AWS_REGION", "eu-west-3");
    use(steps, 1, "s3://bucket-1/pre fix/\xc3\xa9+/");
    cr_assert_eq(store_put(store, "p/a~b_c.z", SLICE_LIT("hello"), "text/plain", 0, &e), 0);
    cr_assert_eq(store_delete(store, "p/x", 0, &e), 0);
    cr_assert_eq(fake_server_count(fake), 2);
    cr_assert_eq(strncmp(head(0), "PUT /bucket-1/pre%20fix/%C3%A9%2B/p/a~b_c.z HTTP/1.1\r\n", 53),
                 0, "%s", head(0));
    cr_assert(strstr(head(0), "/eu-west-3/s3/aws4_request, SignedHeaders="));
    cr_assert(strstr(head(0), "x-amz-content-sha256;x-amz-date;x-amz-security-token,"), "%s",
              head(0));
    cr_assert(strstr(head(0),
                     "x-amz-content-sha256: "
                     "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\r\n"));
    cr_assert(strstr(head(0), "x-amz-security-token: tok/en+==\r\n"));
    cr_assert(strcasestr(head(0), "Content-Type: text/plain\r\n"));
    cr_assert_str_eq(fake_server_request(fake, 0)->body, "hello");
    cr_assert_eq(strncmp(head(1), "DELETE /bucket-1/", 17), 0);
    /* One connection is kept. */
    cr_assert_eq(fake_server_request(fake, 1)->connection, 1);
    for (size_t i = 0; i < 2; i++)
        cr_assert_null(strstr(head(i), "cret"));
}

Test(s3, virtual_host_style_puts_the_bucket_into_the_host, .fini = finish)
{
    const struct fake_step steps[] = {{FAKE_ANSWER, 200, "x"}};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct err e = ERR_INIT;

    set("SCATTER_S3_ADDRESSING", "virtual");
    use(steps, 1, "s3://bucket/pre");
    /* bucket.127.0.0.1 is no name that resolves: the text shows where it would have gone. */
    cr_assert_eq(store_get(store, "a", 200, &b, &e), STORE_E_TRANSIENT);
    cr_assert(strstr(e.text, "bucket.127.0.0.1"), "%s", e.text);
}

Test(s3, passing_faults_are_retried, .fini = finish)
{
    const struct fake_step steps[] = {
        {FAKE_ANSWER, 503, ERROR("SlowDown", "Please reduce your request rate.")},
        {FAKE_ANSWER, 500, "oops"},
        {FAKE_CLOSE, 0, ""},
        {FAKE_RESET, 0, ""},
        {FAKE_CUT, 200, "half of "},
        {FAKE_ANSWER, 429, ""},
        {FAKE_ANSWER, 400, ERROR("RequestTimeout", "Idle")},
        {FAKE_ANSWER, 200, "whole"},
    };

    use(steps, ARRAY_SIZE(steps), "s3://bucket");
    expect_get("whole");
    cr_assert_eq(fake_server_count(fake), ARRAY_SIZE(steps));
}

Test(s3, a_put_is_sent_again_whole, .fini = finish)
{
    const struct fake_step steps[] = {{FAKE_ANSWER, 200, ""},
                                      {FAKE_CLOSE, 0, ""},
                                      {FAKE_ANSWER, 503, ""},
                                      {FAKE_ANSWER, 200, ""}};
    CLEANUP(buf_deinit) struct buf large = BUF_INIT;
    struct err e = ERR_INIT;
    size_t n;

    while (large.len < (3u << 20))
        buf_appendf(&large, "%zu,", large.len);
    use(steps, ARRAY_SIZE(steps), "s3://bucket");
    cr_assert_eq(store_put(store, "a", SLICE_LIT("first"), NULL, 0, &e), 0, "%s", e.text);
    /* The kept connection dies under the second object. */
    cr_assert_eq(store_put(store, "b", buf_slice(&large), NULL, 0, &e), 0, "%s", e.text);
    n = fake_server_count(fake);
    cr_assert_geq(n, 3);
    cr_assert_eq(fake_server_request(fake, n - 1)->body_len, large.len);
    cr_assert_str_eq(fake_server_request(fake, n - 1)->body, large.data);
}

Test(s3, a_silent_server_is_left_and_asked_again, .fini = finish)
{
    const struct fake_step steps[] = {{FAKE_SILENCE, 0, ""}, {FAKE_ANSWER, 200, "late"}};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct err e = ERR_INIT;

    use(steps, 2, "s3://bucket");
    cr_assert_eq(store_get(store, "a", 7000, &b, &e), 0, "%s", e.text);
    cr_assert_str_eq(b.data, "late");
}

Test(s3, the_deadline_ends_the_retries, .fini = finish)
{
    const struct fake_step steps[] = {{FAKE_ANSWER, 503, ERROR("SlowDown", "Busy")}};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct err e = ERR_INIT;

    use(steps, 1, "s3://bucket");
    cr_assert_eq(store_get(store, "a", 300, &b, &e), STORE_E_TRANSIENT);
    cr_assert(strstr(e.text, "HTTP 503 SlowDown Busy"), "%s", e.text);
    cr_assert(strstr(e.text, "attempts in"), "%s", e.text);
    cr_assert_eq(b.len, 0);
}

static const struct {
    struct fake_step step;
    int code;
    const char *text;
} refusals[] = {
    {{FAKE_ANSWER, 403, ERROR("InvalidAccessKeyId", "No such key id")},
     STORE_E_DENIED,
     "S3 refused GET of p/a in bucket \"bucket\" (HTTP 403 InvalidAccessKeyId: No such key id): "
     "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"},
    {{FAKE_ANSWER, 403, ERROR("SignatureDoesNotMatch", "")},
     STORE_E_DENIED,
     "S3 refused GET of p/a in bucket \"bucket\" (HTTP 403 SignatureDoesNotMatch): "
     "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"},
    {{FAKE_ANSWER, 400, ERROR("ExpiredToken", "Too old")},
     STORE_E_DENIED,
     "S3 refused GET of p/a in bucket \"bucket\" (HTTP 400 ExpiredToken: Too old): check "
     "AWS_SESSION_TOKEN"},
    {{FAKE_ANSWER, 403, ""},
     STORE_E_DENIED,
     "S3 refused GET of p/a in bucket \"bucket\" (HTTP 403 ): give these keys the right to read "
     "and "
     "write there"},
    {{FAKE_ANSWER, 404, ERROR("NoSuchKey", "x")},
     STORE_E_NOT_FOUND,
     "p/a is not in s3://bucket/pre"},
    {{FAKE_ANSWER, 404, "<Code>NoSuchKey"}, STORE_E_NOT_FOUND, "p/a is not in s3://bucket/pre"},
    {{FAKE_ANSWER, 404, ERROR("NoSuchBucket", "x")},
     -EINVAL,
     "bucket \"bucket\" does not exist at http:"},
    {{FAKE_ANSWER, 301, ERROR("PermanentRedirect", "use another endpoint")},
     -EINVAL,
     "bucket \"bucket\" is not in region us-east-1 (use another endpoint): set AWS_REGION"},
    {{FAKE_ANSWER, 418, ERROR("Tea\x01\x1b[31m", "short and stout")}, -EIO, "S3 endpoint http:"},
    {{FAKE_GARBAGE, 0, ""}, -EIO, "S3 endpoint http:"},
    {{FAKE_HUGE, 200, "x"}, -E2BIG, "p/a in s3://bucket: larger than 1024 MiB"},
};

Test(s3, refusals_are_final_and_named)
{
    for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
        CLEANUP(buf_deinit) struct buf b = BUF_INIT;
        struct err e = ERR_INIT;
        int code;

        use(&refusals[i].step, 1, "s3://bucket/pre");
        code = store_get(store, "p/a", 0, &b, &e);
        cr_expect_eq(code, refusals[i].code, "%zu: %d %s", i, code, e.text);
        cr_expect_eq(strncmp(e.text, refusals[i].text, strlen(refusals[i].text)), 0, "%zu: %s", i,
                     e.text);
        cr_expect_eq(fake_server_count(fake), 1, "%zu", i);
        cr_expect_eq(b.len, 0);
        for (const char *p = e.text; *p; p++)
            cr_expect_geq(*p, ' ');
        finish();
    }
}

Test(s3, an_object_without_end_is_cut_off, .fini = finish)
{
    const struct fake_step steps[] = {{FAKE_ENDLESS, 0, ""}};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct err e = ERR_INIT;

    use(steps, 1, "s3://bucket");
    cr_assert_eq(store_get(store, "a", 60000, &b, &e), -E2BIG, "%s", e.text);
    cr_assert_eq(b.len, 0);
}

Test(s3, a_bucket_elsewhere_is_followed_once, .fini = finish)
{
    const struct fake_step steps[] = {
        {FAKE_ANSWER, 301, ERROR("PermanentRedirect", "use another endpoint"),
         "x-amz-bucket-region: eu-central-1\r\n"},
        {FAKE_ANSWER, 200, "there"},
        {FAKE_ANSWER, 400,
         "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-9</Region></Error>"},
        {FAKE_ANSWER, 400,
         "<Error><Code>AuthorizationHeaderMalformed</Code><Region>mars-1</Region></Error>"},
    };
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct err e = ERR_INIT;

    use(steps, ARRAY_SIZE(steps), "s3://bucket");
    expect_get("there");
    cr_assert(strstr(head(0), "/us-east-1/s3/aws4_request"));
    cr_assert(strstr(head(1), "/eu-central-1/s3/aws4_request"));
    cr_assert_eq(store_get(store, "p/a", 0, &b, &e), -EINVAL);
    cr_assert(strstr(e.text, "set AWS_REGION=mars-1"), "%s", e.text);
    cr_assert_eq(fake_server_count(fake), 4);
}

Test(s3, what_the_server_asks_to_wait_is_waited, .fini = finish)
{
    const struct fake_step steps[] = {
        {FAKE_ANSWER, 503, ERROR("SlowDown", "Busy"), "Retry-After: 30\r\n"}};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct err e = ERR_INIT;

    use(steps, 1, "s3://bucket");
    /* Thirty seconds do not fit into ten: there is no second request, and no waiting either. */
    cr_assert_eq(store_get(store, "a", 10000, &b, &e), STORE_E_TRANSIENT);
    cr_assert_eq(fake_server_count(fake), 1);
}

Test(s3, how_objects_are_kept_is_said_where_they_are_written, .fini = finish)
{
    const struct fake_step steps[] = {{FAKE_ANSWER, 200, ""}};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    set("SCATTER_S3_SSE", "aws:kms");
    set("SCATTER_S3_SSE_KMS_KEY_ID", "arn:aws:kms:eu:1:key/x");
    set("SCATTER_S3_STORAGE_CLASS", "STANDARD_IA");
    use(steps, 1, "s3://bucket");
    cr_assert_eq(store_put(store, "a", SLICE_LIT("x"), NULL, 0, NULL), 0);
    cr_assert_eq(store_get(store, "a", 0, &b, NULL), 0);
    cr_assert(strstr(head(0), "x-amz-server-side-encryption: aws:kms\r\n"));
    cr_assert(strstr(head(0), "-aws-kms-key-id: arn:aws:kms:eu:1:key/x\r\n"));
    cr_assert(strstr(head(0), "x-amz-storage-class: STANDARD_IA\r\n"));
    cr_assert_null(strstr(head(1), "encryption"));
    cr_assert_null(strstr(head(1), "storage-class"));
}

Test(s3, nobody_listens)
{
    const struct fake_step steps[] = {{FAKE_ANSWER, 200, ""}};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    CLEANUP(mem_free) char *port = NULL;
    struct err e = ERR_INIT;

    use(steps, 1, "s3://bucket");
    cr_assert_geq(
        asprintf(&port, "http://127.0.0.1:%d: Connection refused", fake_server_port(fake)), 0);
    fake = fake_server_stop(fake);
    cr_assert_eq(store_get(store, "a", 150, &b, &e), STORE_E_TRANSIENT);
    cr_assert(strstr(e.text, port), "%s", e.text);
    cr_assert(strstr(e.text, "check AWS_ENDPOINT_URL"), "%s", e.text);
    store = store_close(store);
}

static const struct {
    const char *name, *value, *url, *text;
} settings[] = {
    {"AWS_ACCESS_KEY_ID", "", "s3://bucket", "so AWS_ACCESS_KEY_ID is needed"},
    {"AWS_SECRET_ACCESS_KEY", "", "s3://bucket", "so AWS_SECRET_ACCESS_KEY is needed"},
    {"AWS_ENDPOINT_URL", "127.0.0.1:9", "s3://bucket",
     "AWS_ENDPOINT_URL: expected http://host:port"},
    {"AWS_ENDPOINT_URL", "http://u:p@h", "s3://bucket",
     "AWS_ENDPOINT_URL: expected http://host:port"},
    {"AWS_ENDPOINT_URL", "http://", "s3://bucket", "AWS_ENDPOINT_URL: expected http://host:port"},
    {"AWS_REGION", "eu west", "s3://bucket", "is no region's name"},
    {"SCATTER_S3_SSE", "rot13", "s3://bucket", "is not AES256, aws:kms or aws:kms:dsse"},
    {"SCATTER_S3_SSE_KMS_KEY_ID", "key", "s3://bucket", "needs SCATTER_S3_SSE=aws:kms"},
    {"SCATTER_S3_STORAGE_CLASS", "A\r\nb: c", "s3://bucket", "holds spaces or control bytes"},
    {"AWS_CONFIG_FILE", "/proc/self/mem", "s3://bucket", "cannot read /proc/self/mem"},
    {"SCATTER_S3_ADDRESSING", "dns", "s3://bucket", "is not path, virtual or auto"},
    {"AWS_SESSION_TOKEN", "a\r\nb: c", "s3://bucket",
     "the session token holds characters that no key has"},
    {"AWS_REGION", "", "s3://", "expected s3://bucket/prefix"},
    {"AWS_REGION", "", "s3://b..d/x", "expected s3://bucket/prefix"},
    {"AWS_REGION", "", "s3://b@d/x", "expected s3://bucket/prefix"},
    {"AWS_REGION", "", "ftp://b", "expected s3://bucket/prefix or file:///dir"},
};

Test(s3, wrong_settings_are_named)
{
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
        CLEANUP(store_close) struct store *s = NULL;
        struct err e = ERR_INIT;

        set("AWS_ACCESS_KEY_ID", "AKID");
        set("AWS_SECRET_ACCESS_KEY", "secret");
        set(settings[i].name, settings[i].value);
        cr_expect_eq(store_open(settings[i].url, &s, &e), -EINVAL, "%zu", i);
        cr_expect(strstr(e.text, settings[i].text), "%zu: %s", i, e.text);
        cr_expect_null(strstr(e.text, "secret"));
        cr_assert_eq(unsetenv(settings[i].name), 0);
    }
}
