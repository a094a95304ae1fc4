/* SPDX-License-Identifier: Apache-2.0 */
/* One connection and small questions. Reads are SCAN-like: no command here stops the server for long. */

#include "celeryc/cli/broker.h"

#include "celeryc/base/clock.h"
#include "celeryc/worker/config.h"

#include <errno.h>
#include <stdio.h>
#include <strings.h>
#include <unistd.h>

#define CONNECT_MS  4000
#define MAX_WORDS   16
#define PLAIN_BYTES 255

int cli_broker_open(struct cli_broker *b, const struct cli_common *o, struct err *e)
{
    int r = cli_settings(o, &b->s) ? CLI_E_TOLD : 0;
    if (r == 0)
        r = config_broker(o->broker, &b->s, &b->ep, e);
    if (r == 0)
        r = redis_sync_open(&b->ep, CONNECT_MS, &b->redis, e);
    b->prefix = b->s.broker_keyprefix ? b->s.broker_keyprefix : "";
    return r;
}

void cli_broker_close(struct cli_broker *b)
{
    b->redis = redis_sync_close(b->redis);
    redis_endpoint_deinit(&b->ep);
    settings_deinit(&b->s);
}

static size_t take_words(struct slice argv[MAX_WORDS], va_list ap)
{
    size_t n = 0;
    const char *word;
    while ((word = va_arg(ap, const char *))) {
        ASSERT(n < MAX_WORDS);
        argv[n++] = slice_str(word);
    }
    return n;
}

int cli_ask(struct cli_broker *b, const struct redis_reply **ret_reply, struct err *e, ...)
{
    struct slice argv[MAX_WORDS] = {SLICE_NULL};
    va_list ap;
    va_start(ap, e);
    size_t n = take_words(argv, ap);
    va_end(ap);
    return redis_sync_command(b->redis, n, argv, ret_reply, e);
}

int cli_ask_i64(struct cli_broker *b, int64_t *ret_v, struct err *e, ...)
{
    struct slice argv[MAX_WORDS] = {SLICE_NULL};
    const struct redis_reply *reply;
    va_list ap;
    va_start(ap, e);
    size_t n = take_words(argv, ap);
    va_end(ap);
    int r = redis_sync_command(b->redis, n, argv, &reply, e);
    if (r)
        return r;
    if (reply->kind != REDIS_R_INTEGER)
        return err_set(e, -EPROTO, "%.*s was not answered with a number", (int)argv[0].len,
                       argv[0].p);
    *ret_v = reply->integer;
    return 0;
}

char *cli_key(const struct cli_broker *b, const char *fmt, ...)
{
    char *rest = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&rest, fmt, ap);
    va_end(ap);
    if (n < 0)
        return NULL;
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    buf_append_str(&key, b->prefix);
    buf_append_str(&key, rest);
    free(rest);
    return buf_take(&key);
}

/* ---- keys ---- */

/* A prefix may hold what a pattern gives a meaning to. */
static void append_literal(struct buf *pattern, const char *text)
{
    for (; *text; text++) {
        if (strchr("*?[]\\^", *text))
            buf_append_char(pattern, '\\');
        buf_append_char(pattern, *text);
    }
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void drop_doubles(struct strv *keys)
{
    size_t n = 0;
    if (keys->n)
        qsort(keys->v, keys->n, sizeof(*keys->v), by_bytes);
    for (size_t i = 0; i < keys->n; i++) {
        if (n && str_eq(keys->v[n - 1], keys->v[i]))
            free(keys->v[i]);
        else
            keys->v[n++] = keys->v[i];
    }
    if (keys->v)
        keys->v[n] = NULL;
    keys->n = n;
}

int cli_keys(struct cli_broker *b, const char *start, struct strv *ret_keys, struct err *e)
{
    CLEANUP(buf_deinit) struct buf glob = BUF_INIT;
    append_literal(&glob, start);
    buf_append_char(&glob, '*');
    return buf_ok(&glob) ? -ENOMEM : cli_keys_like(b, glob.data, ret_keys, e);
}

int cli_keys_like(struct cli_broker *b, const char *glob, struct strv *ret_keys, struct err *e)
{
    CLEANUP(buf_deinit) struct buf pattern = BUF_INIT;
    char cursor[24] = "0";
    append_literal(&pattern, b->prefix);
    buf_append_str(&pattern, glob);
    int r = buf_ok(&pattern);
    if (r)
        return r;
    do {
        const struct redis_reply *reply;
        r = cli_ask(b, &reply, e, "SCAN", cursor, "MATCH", pattern.data, "COUNT", "1000", NULL);
        if (r)
            return r;
        if (reply->kind != REDIS_R_ARRAY || reply->n != 2 ||
            reply->elem[0]->str.len >= sizeof(cursor))
            return err_set(e, -EPROTO, "SCAN was not answered with a cursor");
        (void)snprintf(cursor, sizeof(cursor), "%.*s", (int)reply->elem[0]->str.len,
                       reply->elem[0]->str.p);
        for (size_t i = 0; r == 0 && i < reply->elem[1]->n; i++)
            r = strv_add(ret_keys, reply->elem[1]->elem[i]->str.p);
        if (r)
            return r;
    } while (!str_eq(cursor, "0"));
    drop_doubles(ret_keys);
    return 0;
}

/* ---- workers ---- */

static const struct redis_script live_script = {
    .name = "live",
    .source = "local t = redis.call('TIME')\n"
              "return redis.call('ZCOUNT', ARGV[1], t[1] * 1000 - 15000, '+inf')\n",
};

int cli_live_workers(struct cli_broker *b, int64_t *ret_n, struct err *e)
{
    CLEANUP(mem_free) char *key = cli_key(b, "celeryc:workers");
    const struct redis_reply *reply;
    if (!key)
        return -ENOMEM;
    const struct slice argv[] = {slice_str(key)};
    int r = redis_sync_eval(b->redis, &live_script, 1, argv, &reply, e);
    if (r == 0)
        *ret_n = reply->integer;
    return r;
}

/* ---- people ---- */

void cli_write_plain(struct buf *dst, struct slice s)
{
    for (size_t i = 0; i < s.len && i < PLAIN_BYTES; i++)
        buf_append_char(dst, (unsigned char)s.p[i] < ' ' || s.p[i] == 127 ? ' ' : s.p[i]);
    if (s.len > PLAIN_BYTES)
        buf_append_str(dst, "...");
}

void cli_progress(struct cli_broker *b, const char *what, uint64_t done, uint64_t total)
{
    int64_t now_ns = clock_mono_ns();
    bool last = done >= total;
    if (b->shown_ns == 0)
        b->shown_ns = now_ns; /* what takes less than a second needs no progress */
    if (!isatty(STDERR_FILENO) || (last ? !b->line_open : now_ns - b->shown_ns < NS_PER_S))
        return;
    b->shown_ns = now_ns;
    b->line_open = !last;
    (void)fprintf(stderr, "\r%llu of %llu %s%s", (unsigned long long)done,
                  (unsigned long long)total, what, last ? "\n" : "");
    (void)fflush(stderr);
}

bool cli_confirm(const char *question)
{
    (void)printf("%s [y/N]: ", question);
    (void)fflush(stdout);
    char line[16];
    if (!fgets(line, sizeof(line), stdin))
        return false;
    line[strcspn(line, "\n")] = '\0';
    return strcasecmp(line, "y") == 0 || strcasecmp(line, "yes") == 0;
}
