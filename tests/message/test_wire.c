/* SPDX-License-Identifier: Apache-2.0 */
/* Names, what is accepted, how a message is written, and signatures. Values of serializers are compared with Python's in
 * interop_tests/test_wire_oracle.py. */

#include "keys.h"

#include "celeryc/base/codec.h"
#include "celeryc/message/message_priv.h"
#include "celeryc/message/wire_priv.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <glob.h>
#include <unistd.h>

#define BODY                                                                               \
    "[[1, 1.0], {\"k\": NaN}, {\"callbacks\": null, \"errbacks\": null, \"chain\": null, " \
    "\"chord\": null}]"

static struct wire *make(const struct wire_options *o)
{
    struct wire *w = NULL;
    struct err e = ERR_INIT;
    int r = wire_new(o, &w, &e);

    cr_assert_eq(r, 0, "%s", e.text);
    return w;
}

Test(wire, names_and_aliases)
{
    static const struct {
        const char *name;
        enum content c;
    } cases[] = {
        {"json", CONTENT_JSON},
        {"application/json", CONTENT_JSON},
        {"msgpack", CONTENT_MSGPACK},
        {"application/x-msgpack", CONTENT_MSGPACK},
        {"yaml", CONTENT_YAML},
        {"auth", CONTENT_AUTH},
        {"application/data", CONTENT_AUTH},
        {"pickle", CONTENT_PICKLE},
        {"application/x-python-serialize", CONTENT_PICKLE},
        {"JSON", CONTENT_UNKNOWN},
        {"", CONTENT_UNKNOWN},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        cr_assert_eq(content_find(slice_str(cases[i].name)), cases[i].c, "%s", cases[i].name);
    cr_assert_str_eq(compression_type(SLICE_LIT("gzip")), "application/x-gzip");
    cr_assert_str_eq(compression_type(SLICE_LIT("bzip")), "application/x-bz2");
    cr_assert_str_eq(compression_type(SLICE_LIT("xz")), "application/x-lzma");
    cr_assert_str_eq(compression_type(SLICE_LIT("application/zstd")), "application/zstd");
    cr_assert_null(compression_type(SLICE_LIT("rar")));
}

Test(wire, what_is_accepted)
{
    const struct wire_options all = {.accept = "application/json,yaml,pickle"};
    CLEANUP(wire_free) struct wire *w = make(&all);

    cr_assert(wire_accepts(w, CONTENT_JSON) && wire_accepts(w, CONTENT_YAML));
    cr_assert_not(wire_accepts(w, CONTENT_MSGPACK));
    cr_assert_not(wire_accepts(w, CONTENT_PICKLE), "never");
    cr_assert_not(wire_accepts(w, CONTENT_UNKNOWN));
    cr_assert(wire_accepts(NULL, CONTENT_JSON));
    cr_assert_not(wire_accepts(NULL, CONTENT_YAML));
    cr_assert_not(wire_signed_only(w));
}

Test(wire, wrong_settings_are_named)
{
    const struct {
        struct wire_options o;
        const char *why;
    } cases[] = {
        {{.accept = "json,nonsense"}, "accept_content: nonsense"},
        {{.serializer = "pickle"}, "task_serializer: pickle"},
        {{.serializer = "nonsense"}, "task_serializer: nonsense"},
        {{.compression = "rar"}, "task_compression: rar"},
        {{.serializer = "auth"}, "security_key"},
        {{.accept = "auth"}, "security_key"},
        {{.accept = "auth", .key = "/none", .certificate = "/none", .cert_store = "/none"},
         "security_key: cannot read /none"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct wire *w = NULL;
        struct err e = ERR_INIT;

        cr_assert_lt(wire_new(&cases[i].o, &w, &e), 0);
        cr_assert_null(w);
        cr_assert_not_null(strstr(e.text, cases[i].why), "%s", e.text);
    }
}

/* A message written with these options, parsed and read back. */
static void round_trip(const struct wire_options *o, const char *serializer,
                       const char *compression, const char *type)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(wire_free) struct wire *w = make(o);
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    struct message_new n = {
        .task = SLICE_LIT("t"),
        .id = SLICE_LIT("i"),
        .queue = SLICE_LIT("q"),
        .args = SLICE_LIT("[1, 1.0, NaN, \"\\ud83d\\ude00\"]"),
        .kwargs = SLICE_LIT("{\"b\": 1, \"a\": [null]}"),
        .wire = w,
        .serializer = slice_str(serializer),
        .compression = slice_str(compression),
    };
    struct message m;
    struct message_body b;
    struct err e = ERR_INIT;

    cr_assert_eq(message_write_new(&raw, &n), 0);
    cr_assert_eq(message_parse_as(a, w, buf_slice(&raw), &m, &e), 0, "%s", e.text);
    cr_assert_eq(message_body(a, &m, &b, &e), 0, "%s", e.text);
    cr_assert(slice_eq_str(m.content_type, type), "%.*s", (int)m.content_type.len,
              m.content_type.p);
    cr_assert(slice_eq(b.args.raw, n.args), "%.*s", (int)b.args.raw.len, b.args.raw.p);
    cr_assert(slice_eq(b.kwargs.raw, n.kwargs));
    cr_assert_eq(m.compression.len > 0, compression || o->compression);
}

Test(wire, the_signature_decides_then_the_worker)
{
    const struct wire_options plain = {.accept = "json,msgpack,yaml"};
    const struct wire_options packed = {
        .accept = "json,msgpack,yaml", .serializer = "msgpack", .compression = "xz"};

    round_trip(&plain, NULL, NULL, "application/json");
    round_trip(&plain, "yaml", "zstd", "application/x-yaml");
    round_trip(&packed, NULL, NULL, "application/x-msgpack");
    round_trip(&packed, "json", NULL, "application/json");
    round_trip(&packed, "yaml", "bzip2", "application/x-yaml");
}

Test(wire, what_cannot_be_written_has_a_reason)
{
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    struct err e = ERR_INIT;
    struct message_new n = {
        .task = SLICE_LIT("t"),
        .id = SLICE_LIT("i"),
        .queue = SLICE_LIT("q"),
        .args = SLICE_LIT("[18446744073709551616]"),
        .serializer = SLICE_LIT("msgpack"),
        .why = &e,
    };

    cr_assert_eq(message_write_new(&raw, &n), -EINVAL);
    cr_assert_not_null(strstr(e.text, "64 bits"), "%s", e.text);
    e = (struct err)ERR_INIT;
    n.serializer = SLICE_LIT("auth");
    cr_assert_eq(message_write_new(&raw, &n), -EINVAL);
    cr_assert_not_null(strstr(e.text, "security_key"), "%s", e.text);
    cr_assert_eq(raw.len, 0, "nothing of it is written");
}

/* ---- signatures ---- */

struct folder {
    char path[32], key[64], cert[64], store[64];
};

static struct folder make_folder(const char *name, const char *password)
{
    struct folder f = {.path = "/tmp/test-wire-XXXXXX"};

    cr_assert_not_null(mkdtemp(f.path));
    keys_make(f.path, name, 10, password);
    (void)snprintf(f.key, sizeof(f.key), "%.24s/%.16s.key", f.path, name);
    (void)snprintf(f.cert, sizeof(f.cert), "%.24s/store/%.16s.crt", f.path, name);
    (void)snprintf(f.store, sizeof(f.store), "%.24s/store", f.path);
    return f;
}

static void remove_folder(const struct folder *f)
{
    char pattern[64];
    glob_t files;

    (void)snprintf(pattern, sizeof(pattern), "%.24s/*.key", f->path);
    cr_assert_eq(glob(pattern, 0, NULL, &files), 0);
    (void)snprintf(pattern, sizeof(pattern), "%.24s/store/*", f->path);
    (void)glob(pattern, GLOB_APPEND, NULL, &files);
    for (size_t i = 0; i < files.gl_pathc; i++)
        (void)unlink(files.gl_pathv[i]);
    globfree(&files);
    (void)rmdir(f->store);
    (void)rmdir(f->path);
}

static struct wire_options options_of(const struct folder *f)
{
    return (struct wire_options){.accept = "auth",
                                 .serializer = "auth",
                                 .key = f->key,
                                 .certificate = f->cert,
                                 .cert_store = f->store};
}

Test(wire, signed_and_verified)
{
    static const char *const digests[] = {NULL, "sha256", "sha512", "sha3_256"};
    struct folder f = make_folder("w", "secret");
    struct wire_options o = options_of(&f);

    o.key_password = "secret";
    for (size_t i = 0; i < ARRAY_SIZE(digests); i++) {
        o.digest = digests[i];
        round_trip(&o, NULL, NULL, "application/data");
        round_trip(&o, NULL, "zlib", "application/data");
    }
    remove_folder(&f);
}

static const char *verify(const struct wire *w, struct slice text, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct slice json;

    *e = (struct err)ERR_INIT;
    return wire_decode(w, a, CONTENT_AUTH, text, &json, e) == -EINVAL ? e->text : "taken";
}

/* The fields of a signed text with one of them replaced. */
static void forge(struct buf *dst, struct slice text, size_t field, struct slice with)
{
    CLEANUP(buf_deinit) struct buf fields = BUF_INIT;
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    size_t n = 0;

    cr_assert_eq(base64_decode(&fields, text), 0);
    for (size_t i = 0, start = 0; i <= fields.len; i++) {
        bool sep = i + 1 < fields.len && n < 4 && memcmp(fields.data + i, "\0\1", 2) == 0;

        if (!sep && i < fields.len)
            continue;
        if (n == field)
            buf_append_slice(&out, with);
        else
            buf_append(&out, fields.data + start, i - start);
        if (sep)
            buf_append(&out, "\0\1", 2);
        n++;
        start = i + 2;
        i += sep;
    }
    buf_reset(dst);
    base64_encode(dst, buf_slice(&out));
}

Test(wire, forged_bodies_are_refused)
{
    struct folder f = make_folder("w", NULL), other = make_folder("stranger", NULL);
    const struct wire_options o = options_of(&f), strange = options_of(&other);
    CLEANUP(wire_free) struct wire *w = make(&o);
    CLEANUP(wire_free) struct wire *stranger = make(&strange);
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    CLEANUP(buf_deinit) struct buf forged = BUF_INIT;
    struct err e = ERR_INIT;

    cr_assert_eq(auth_sign(w->auth, &text, CONTENT_JSON, SLICE_LIT(BODY), &e), 0);
    cr_assert_str_eq(verify(w, buf_slice(&text), &e), "taken");
    cr_assert_not_null(
        strstr(verify(stranger, buf_slice(&text), &e), "Unknown certificate: 'CZ w 1234567890123"));
    forge(&forged, buf_slice(&text), 4, SLICE_LIT("[[2], {}, {}]"));
    cr_assert_not_null(strstr(verify(w, buf_slice(&forged), &e), "Bad signature"), "%s", e.text);
    forge(&forged, buf_slice(&text), 1, SLICE_LIT("AAAA"));
    cr_assert_not_null(strstr(verify(w, buf_slice(&forged), &e), "Bad signature"), "%s", e.text);
    forge(&forged, buf_slice(&text), 1, SLICE_LIT(""));
    cr_assert_not_null(strstr(verify(w, buf_slice(&forged), &e), "Bad signature"), "%s", e.text);
    forge(&forged, buf_slice(&text), 2, SLICE_LIT("application/x-python-serialize"));
    cr_assert_not_null(strstr(verify(w, buf_slice(&forged), &e), "is not read"), "%s", e.text);
    forge(&forged, buf_slice(&text), 2, SLICE_LIT("application/data"));
    cr_assert_not_null(strstr(verify(w, buf_slice(&forged), &e), "is not read"), "%s", e.text);
    cr_assert_not_null(strstr(verify(w, SLICE_LIT("AAAA"), &e), "not signed"), "%s", e.text);
    cr_assert_not_null(strstr(verify(w, SLICE_LIT("A"), &e), "base64"), "%s", e.text);
    remove_folder(&f);
    remove_folder(&other);
}

Test(wire, without_a_signature_nothing_counts)
{
    struct folder f = make_folder("w", NULL);
    const struct wire_options o = options_of(&f);
    CLEANUP(wire_free) struct wire *w = make(&o);
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    const struct message_new n = {
        .task = SLICE_LIT("t"), .id = SLICE_LIT("i"), .queue = SLICE_LIT("q")};
    struct message m;
    struct message_body b;
    struct err e = ERR_INIT;

    cr_assert_eq(message_write_new(&raw, &n), 0);
    cr_assert_eq(message_parse_as(a, w, buf_slice(&raw), &m, &e), MESSAGE_E_POISON);
    cr_assert(m.refused);
    cr_assert(slice_eq_str(m.id, "i"), "a failure can be stored");
    cr_assert_not_null(strstr(e.text, "add \"json\" to accept_content"), "%s", e.text);
    cr_assert_eq(message_body(a, &m, &b, NULL), MESSAGE_E_POISON, "its links are not to be seen");
    /* Where plain messages count as well, a refused one's chord can be told. */
    m.wire = NULL;
    cr_assert_eq(message_body(a, &m, &b, NULL), 0);
    remove_folder(&f);
}

Test(wire, expired_and_doubled_certificates)
{
    struct folder f = make_folder("w", NULL);
    const struct wire_options o = options_of(&f);
    char path[64];
    struct wire *w = NULL;
    struct err e = ERR_INIT;

    keys_make(f.path, "old", -1, NULL);
    cr_assert_eq(wire_new(&o, &w, &e), -EINVAL);
    cr_assert_not_null(strstr(e.text, "CZ old"), "%s", e.text);
    cr_assert_not_null(strstr(e.text, "has expired"), "%s", e.text);
    (void)snprintf(path, sizeof(path), "%.24s/store/old.crt", f.path);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(link(f.cert, path), 0);
    e = (struct err)ERR_INIT;
    cr_assert_eq(wire_new(&o, &w, &e), -EINVAL);
    cr_assert_not_null(strstr(e.text, "is there twice"), "%s", e.text);
    remove_folder(&f);
}
