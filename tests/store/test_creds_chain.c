/* SPDX-License-Identifier: Apache-2.0 */
/* Where credentials are found, in which order, and what is said when they are not; services are played by a local
 * server. */

#include "celeryc/store/creds.h"
#include "celeryc/store/store.h"
#include "fake_server.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <unistd.h>

#define JSON                                                                                    \
    "{\"Code\": \"Success\", \"AccessKeyId\": \"ROLEKEY\", \"SecretAccessKey\": \"s3cret+/\", " \
    "\"Token\": \"to/ken==\", \"Expiration\": \"2033-05-18T03:33:20Z\"}"
#define STS                                                                             \
    "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>" \
    "<SessionToken>to/ken==</SessionToken><SecretAccessKey>s3cret+/</SecretAccessKey>"  \
    "<Expiration>2033-05-18T03:33:20Z</Expiration><AccessKeyId>ROLEKEY</AccessKeyId>"   \
    "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
#define STS_ERROR(code, text)                                                          \
    "<ErrorResponse><Error><Code>" code "</Code><Message>" text "</Message></Error></" \
    "ErrorResponse>"

static char folder[] = "/tmp/creds-test-XXXXXX";
static struct fake_server *fake;
static struct creds creds;
static struct err e;

static void set(const char *name, const char *value)
{
    cr_assert_eq(setenv(name, value, 1), 0);
}

/* Writes a file of the test's folder and sets a variable to its path. */
static void file(const char *variable, const char *name, const char *text)
{
    char path[128];
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    f = fopen(path, "w");
    cr_assert(f);
    cr_assert_geq(fputs(text, f), 0);
    cr_assert_eq(fclose(f), 0);
    set(variable, path);
}

/* A server that answers in turn; the variable gets its address with path behind it. */
static void serve(const struct fake_step *steps, size_t n, const char *variable, const char *path)
{
    char url[128];

    fake = fake_server_start(steps, n);
    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", fake_server_port(fake), path);
    set(variable, url);
}

static void start(void)
{
    cr_assert(mkdtemp(folder));
    set("HOME", folder);
    set("AWS_EC2_METADATA_DISABLED", "true");
    set("NO_PROXY", "127.0.0.1");
    e = ERR_INIT;
}

static void finish(void)
{
    static const char *const names[] = {"config", "credentials", "token"};
    char path[128];

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(folder);
    creds_deinit(&creds);
    fake = fake_server_stop(fake);
}

static int look(void)
{
    creds_deinit(&creds);
    e = ERR_INIT;
    return creds_chain(NULL, 5000, &creds, &e);
}

static void expect(const char *key, const char *source)
{
    cr_assert_eq(look(), 0, "%s", e.text);
    cr_assert_str_eq(creds.key_id, key);
    cr_assert_str_eq(creds.source, source);
}

static void expect_failure(int code, const char *text)
{
    int got = look();

    cr_assert_eq(got, code, "%d %s", got, e.text);
    cr_assert(strstr(e.text, text), "%s", e.text);
    cr_assert_null(strstr(e.text, "s3cret"));
}

static const char *head(size_t i)
{
    return fake_server_request(fake, i)->head;
}

TestSuite(creds_chain, .init = start, .fini = finish);

Test(creds_chain, what_was_looked_for_is_said)
{
    expect_failure(-EINVAL, "no AWS credentials (environment: AWS_ACCESS_KEY_ID is not set; "
                            "web identity: AWS_WEB_IDENTITY_TOKEN_FILE is not set; "
                            "profile: \"default\" is neither in /tmp/creds-test-");
    cr_assert(strstr(e.text, "container endpoint: AWS_CONTAINER_CREDENTIALS_FULL_URI is not set; "
                             "instance metadata: AWS_EC2_METADATA_DISABLED is true): set "
                             "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give"),
              "%s", e.text);
}

Test(creds_chain, the_order_is_that_of_the_aws_tools)
{
    const struct fake_step sts = {FAKE_ANSWER, 200, STS}, json = {FAKE_ANSWER, 200, JSON};
    struct fake_server *container;

    serve(&json, 1, "AWS_CONTAINER_CREDENTIALS_FULL_URI", "/c");
    container = fake;
    expect("ROLEKEY", "container endpoint");
    file("AWS_SHARED_CREDENTIALS_FILE", "credentials",
         "[default]\naws_access_key_id = FILEKEY\naws_secret_access_key = s3cret\n");
    expect("FILEKEY", "profile");
    serve(&sts, 1, "AWS_ENDPOINT_URL_STS", "");
    file("AWS_WEB_IDENTITY_TOKEN_FILE", "token", "jwt");
    set("AWS_ROLE_ARN", "arn:aws:iam::1:role/x");
    expect("ROLEKEY", "web identity");
    set("AWS_ACCESS_KEY_ID", "ENVKEY");
    set("AWS_SECRET_ACCESS_KEY", "s3cret");
    set("AWS_SESSION_TOKEN", "token");
    expect("ENVKEY", "environment");
    cr_assert_str_eq(creds.token, "token");
    cr_assert_eq(fake_server_count(container), 1);
    cr_assert_eq(fake_server_count(fake), 1);
    fake_server_stop(container);
}

/* ---- web identity ---- */

static void use_sts(const struct fake_step *steps, size_t n)
{
    serve(steps, n, "AWS_ENDPOINT_URL_STS", "/");
    file("AWS_WEB_IDENTITY_TOKEN_FILE", "token", "eyJ.a+b\n");
    set("AWS_ROLE_ARN", "arn:aws:iam::1:role/x");
    set("AWS_ROLE_SESSION_NAME", "me");
}

Test(creds_chain, web_identity)
{
    const struct fake_step steps[] = {{FAKE_ANSWER, 200, STS}};

    use_sts(steps, 1);
    expect("ROLEKEY", "web identity");
    cr_assert_str_eq(creds.secret, "s3cret+/");
    cr_assert_str_eq(creds.token, "to/ken==");
    cr_assert_eq(creds.expires_us, INT64_C(2000000000000000));
    cr_assert_eq(strncmp(head(0), "POST / HTTP/1.1\r\n", 17), 0, "%s", head(0));
    cr_assert_str_eq(fake_server_request(fake, 0)->body,
                     "Action=AssumeRoleWithWebIdentity&Version=2011-06-15"
                     "&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx&RoleSessionName=me"
                     "&WebIdentityToken=eyJ.a%2Bb");
    /* The token is replaced in its file: each time it is read again. */
    file("AWS_WEB_IDENTITY_TOKEN_FILE", "token", "second");
    expect("ROLEKEY", "web identity");
    cr_assert(strstr(fake_server_request(fake, 1)->body, "WebIdentityToken=second"));
}

Test(creds_chain, web_identity_refused)
{
    const struct fake_step steps[] = {
        {FAKE_ANSWER, 403, STS_ERROR("AccessDenied", "Not authorized")},
        {FAKE_ANSWER, 400, STS_ERROR("ExpiredTokenException", "Token expired")},
        {FAKE_ANSWER, 400, STS_ERROR("IDPCommunicationError", "later")},
        {FAKE_ANSWER, 503, ""},
        {FAKE_CLOSE, 0, ""},
        {FAKE_ANSWER, 200, "<AccessKeyId>ROLEKEY</AccessKeyId>"},
    };

    use_sts(steps, ARRAY_SIZE(steps));
    expect_failure(STORE_E_DENIED,
                   "STS refused role arn:aws:iam::1:role/x with the token of /tmp/");
    cr_assert(strstr(e.text, "(HTTP 403 AccessDenied: Not authorized): the role's trust policy"),
              "%s", e.text);
    expect_failure(STORE_E_DENIED, "ExpiredTokenException: Token expired): check who writes");
    expect_failure(STORE_E_TRANSIENT, "IDPCommunicationError: later): try again later");
    expect_failure(STORE_E_TRANSIENT, "HTTP 503");
    expect_failure(STORE_E_TRANSIENT, "AWS credentials (web identity): STS: http://127.0.0.1:");
    expect_failure(-EINVAL, "the secret access key is missing");
    set("AWS_ENDPOINT_URL_STS", "https://me:s3cret@sts");
    expect_failure(-EINVAL, "AWS_ENDPOINT_URL_STS: expected https://host");
    set("AWS_ENDPOINT_URL_STS", "ftp://sts");
    expect_failure(-EINVAL, "\"ftp://sts\" is no http:// or https:// URL");
    set("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token");
    expect_failure(-EINVAL, "cannot read the token file /nowhere/token: No such file");
    cr_assert_eq(unsetenv("AWS_ROLE_ARN"), 0);
    expect_failure(-EINVAL, "so AWS_ROLE_ARN is needed");
}

Test(creds_chain, a_wrong_ca_bundle_is_named)
{
    const struct fake_step steps[] = {{FAKE_ANSWER, 200, STS}};
    char url[64];

    use_sts(steps, 1);
    (void)snprintf(url, sizeof(url), "https://127.0.0.1:%d", fake_server_port(fake));
    set("AWS_ENDPOINT_URL_STS", url);
    set("AWS_CA_BUNDLE", "/nonexistent");
    expect_failure(-EINVAL, "check AWS_CA_BUNDLE");
}

/* ---- profile ---- */

Test(creds_chain, profiles)
{
    const struct fake_step steps[] = {{FAKE_ANSWER, 200, STS}};

    file("AWS_CONFIG_FILE", "config",
         "[default]\nregion = eu-west-1\n"
         "[profile both]\naws_access_key_id = CONFIGKEY\naws_secret_access_key = s3cret\n"
         "aws_session_token = config\n"
         "[profile alone]\naws_access_key_id = ALONE\naws_secret_access_key = s3cret\n"
         "[profile role]\nrole_arn = arn:role\nweb_identity_token_file = /nowhere/token\n"
         "[profile chained]\nrole_arn = arn:role\nsource_profile = both\n"
         "[profile sso]\nsso_session = corp\n"
         "[profile half]\naws_access_key_id = HALF\n");
    file("AWS_SHARED_CREDENTIALS_FILE", "credentials",
         "[both]\naws_access_key_id = FILEKEY\naws_secret_access_key = s3cret\n");
    expect_failure(-EINVAL, "profile: \"default\" has no aws_access_key_id");
    set("AWS_DEFAULT_PROFILE", "both");
    expect("FILEKEY", "profile");
    set("AWS_PROFILE", "alone");
    expect("ALONE", "profile");
    set("AWS_PROFILE", "chained");
    expect_failure(-EINVAL, "profile \"chained\" has role_arn with source_profile, which is not "
                            "supported: use keys or role_arn with web_identity_token_file");
    set("AWS_PROFILE", "sso");
    expect_failure(-EINVAL, "aws configure export-credentials --profile sso");
    set("AWS_PROFILE", "half");
    expect_failure(-EINVAL, "profile \"half\": the secret access key is missing");
    set("AWS_PROFILE", "nobody");
    expect_failure(-EINVAL, "AWS_PROFILE names profile \"nobody\", which is neither in /tmp/");
    set("AWS_PROFILE", "role");
    expect_failure(-EINVAL, "cannot read the token file /nowhere/token");
    serve(steps, 1, "AWS_ENDPOINT_URL_STS", "");
    file("AWS_CONFIG_FILE", "config",
         "[profile role]\nrole_arn = arn:role\n"
         "web_identity_token_file = token-is-relative\n");
    cr_assert_eq(chdir(folder), 0);
    file("IGNORED", "token-is-relative", "jwt");
    expect("ROLEKEY", "profile");
    cr_assert_eq(unlink("token-is-relative"), 0);
}

Test(creds_chain, a_damaged_file_is_named)
{
    file("AWS_SHARED_CREDENTIALS_FILE", "credentials", "[default]\ns3cret\n");
    expect_failure(-EINVAL, "/credentials: line 2: expected key = value");
}

/* ---- container ---- */

Test(creds_chain, container)
{
    const struct fake_step steps[] = {
        {FAKE_ANSWER, 200, JSON},     {FAKE_ANSWER, 200, JSON},
        {FAKE_ANSWER, 401, "s3cret"}, {FAKE_ANSWER, 500, "s3cret"},
        {FAKE_ANSWER, 200, "[]"},     {FAKE_ANSWER, 200, "{\"Code\": \"Failed\"}"},
        {FAKE_HUGE, 200, "s3cret"}};

    serve(steps, ARRAY_SIZE(steps), "AWS_CONTAINER_CREDENTIALS_FULL_URI", "/v1/s3cret-path?x=y");
    set("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic abc=");
    set("http_proxy", "http://127.0.0.1:1");
    set("NO_PROXY", "");
    expect("ROLEKEY", "container endpoint");
    cr_assert_eq(strncmp(head(0), "GET /v1/s3cret-path?x=y HTTP/1.1\r\n", 34), 0, "%s", head(0));
    cr_assert(strstr(head(0), "\r\nAuthorization: Basic abc=\r\n"));
    file("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "token", "from-a-file\n");
    expect("ROLEKEY", "container endpoint");
    cr_assert(strstr(head(1), "\r\nAuthorization: from-a-file\r\n"));
    expect_failure(STORE_E_DENIED, "HTTP 401: check the pod identity association");
    expect_failure(STORE_E_TRANSIENT, "HTTP 500");
    expect_failure(-EINVAL, "the answer is no JSON object");
    expect_failure(-EINVAL, "the answer is \"Failed\"");
    expect_failure(STORE_E_TRANSIENT, "AWS credentials (container endpoint): http://127.0.0.1:");
    file("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "token", "a\nX-Injected: b");
    expect_failure(-EINVAL, "holds line ends");
}

static const struct {
    const char *url;
    bool allowed;
} hosts[] = {
    {"http://169.254.169.254/", false},
    {"http://192.168.1.1/", false},
    {"http://example.com/", false},
    {"http://127.1/", false},
    {"http://localhost.example.com/", false},
    {"http://127.0.0.1@example.com/", false},
    {"http://localhost\\.example.com/", false},
    {"http://localhost#.example.com/", false},
    {"ftp://localhost/", false},
    {"localhost", false},
    {"http://127.9.9.9:1/", true},
    {"http://localhost:1/", true},
    {"http://[::1]:1/", true},
    {"https://localhost:1/", true},
};

Test(creds_chain, the_container_token_goes_to_near_hosts_alone)
{
    for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
        set("AWS_CONTAINER_CREDENTIALS_FULL_URI", hosts[i].url);
        cr_expect_eq(look(), hosts[i].allowed ? STORE_E_TRANSIENT : -EINVAL, "%s: %s", hosts[i].url,
                     e.text);
    }
}

/* ---- instance metadata ---- */

static void use_imds(const struct fake_step *steps, size_t n)
{
    set("AWS_EC2_METADATA_DISABLED", "false");
    serve(steps, n, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "/");
}

Test(creds_chain, instance_metadata)
{
    const struct fake_step steps[] = {{FAKE_RESET, 0, ""},
                                      {FAKE_ANSWER, 200, "tok"},
                                      {FAKE_ANSWER, 500, ""},
                                      {FAKE_ANSWER, 200, "my-role\n"},
                                      {FAKE_ANSWER, 200, JSON}};

    use_imds(steps, ARRAY_SIZE(steps));
    expect("ROLEKEY", "instance metadata");
    cr_assert_eq(strncmp(head(1), "PUT /latest/api/token HTTP/1.1\r\n", 32), 0, "%s", head(1));
    cr_assert(strstr(head(1), "\r\nX-aws-ec2-metadata-token-ttl-seconds: 300\r\n"));
    cr_assert_eq(
        strncmp(head(4), "GET /latest/meta-data/iam/security-credentials/my-role HTTP/1.1\r\n", 65),
        0, "%s", head(4));
    for (size_t i = 2; i < 5; i++)
        cr_assert(strstr(head(i), "\r\nX-aws-ec2-metadata-token: tok\r\n"), "%s", head(i));
}

Test(creds_chain, instance_metadata_without_a_token_is_not_asked)
{
    const struct fake_step steps[] = {{FAKE_ANSWER, 403, ""},    {FAKE_ANSWER, 200, "a\r\nb"},
                                      {FAKE_ANSWER, 200, "tok"}, {FAKE_ANSWER, 404, ""},
                                      {FAKE_ANSWER, 200, "tok"}, {FAKE_ANSWER, 200, "../../x"}};

    use_imds(steps, ARRAY_SIZE(steps));
    expect_failure(-EINVAL, "refused a token (HTTP 403)");
    cr_assert_eq(fake_server_count(fake), 1);
    expect_failure(-EINVAL, "gave no token");
    expect_failure(-EINVAL, "the instance has no role: attach an instance profile");
    expect_failure(-EINVAL, "names no role");
}

Test(creds_chain, silent_instance_metadata)
{
    const struct fake_step steps[] = {{FAKE_SILENCE, 0, ""}};

    use_imds(steps, 1);
    set("AWS_METADATA_SERVICE_TIMEOUT", "0.05");
    set("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "1");
    expect_failure(-EINVAL, "hop limit must be 2");
    /* Where it had given some before, they will come again. */
    cr_assert_eq(creds_chain("instance metadata", 5000, &creds, &e), STORE_E_TRANSIENT);
    set("AWS_METADATA_SERVICE_TIMEOUT", "soon");
    expect_failure(-EINVAL, "AWS_METADATA_SERVICE_TIMEOUT is no number");
}
