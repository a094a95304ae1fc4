/* SPDX-License-Identifier: Apache-2.0 */
/* hiredis' reader with our own reply objects.
 *
 * A reply lives in one arena, which the next call of redis_reader_next resets: a reply costs a few pointer bumps and is
 * freed at once. hiredis 0.14 has neither a cap on elements nor on the bytes it buffers, so both are held here: what a
 * hostile server announces is checked before memory is taken for it. */
#include "celeryc/redis/reader.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <string.h>

#include "celeryc/base/arena.h"
#include "celeryc/base/limits.h"

struct redis_reader {
    redisReader *hi;
    struct arena *arena;
    size_t n_elements; /* of the reply being read */
    size_t n_bytes;
    bool stale; /* the arena holds a reply that was handed out */
};

static struct redis_reply *reply_new(const redisReadTask *task, enum redis_reply_kind kind)
{
    struct redis_reader *r = task->privdata;
    if (++r->n_elements > LIMIT_REPLY_ELEMENTS)
        return NULL;
    struct redis_reply *reply = arena_alloc(r->arena, sizeof(*reply));
    if (!reply)
        return NULL;
    reply->kind = kind;
    if (task->parent) {
        struct redis_reply *parent = task->parent->obj;
        parent->elem[task->idx] = reply;
    }
    return reply;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): hiredis gives the type */
static void *create_string(const redisReadTask *task, char *p, size_t len)
{
    struct redis_reader *r = task->privdata;
    enum redis_reply_kind kind = task->type == REDIS_REPLY_ERROR    ? REDIS_R_ERROR
                                 : task->type == REDIS_REPLY_STATUS ? REDIS_R_STATUS
                                                                    : REDIS_R_STRING;
    r->n_bytes += len;
    if (len > LIMIT_MESSAGE_BYTES || r->n_bytes > LIMIT_REPLY_BYTES)
        return NULL;
    struct redis_reply *reply = reply_new(task, kind);
    if (!reply)
        return NULL;
    char *copy = arena_strdup(r->arena, (struct slice){p, len});
    if (!copy)
        return NULL;
    reply->str = (struct slice){copy, len};
    return reply;
}

#if HIREDIS_MAJOR >= 1
typedef size_t array_count;
#else
typedef int array_count;
#endif

static void *create_array(const redisReadTask *task, array_count n)
{
    struct redis_reader *r = task->privdata;
    if ((size_t)n > LIMIT_REPLY_ELEMENTS - r->n_elements)
        return NULL;
    struct redis_reply *reply = reply_new(task, REDIS_R_ARRAY);
    if (!reply)
        return NULL;
    reply->elem = arena_alloc_array(r->arena, (size_t)n, sizeof(*reply->elem));
    if (!reply->elem)
        return NULL;
    reply->n = (size_t)n;
    return reply;
}

static void *create_integer(const redisReadTask *task, long long v)
{
    struct redis_reply *reply = reply_new(task, REDIS_R_INTEGER);
    if (reply)
        reply->integer = v;
    return reply;
}

static void *create_nil(const redisReadTask *task)
{
    return reply_new(task, REDIS_R_NIL);
}

static void free_object(void *obj)
{
    (void)obj; /* the arena owns it */
}

static redisReplyObjectFunctions object_functions = {
    .createString = create_string,
    .createArray = create_array,
    .createInteger = create_integer,
    .createNil = create_nil,
    .freeObject = free_object,
};

struct redis_reader *redis_reader_new(void)
{
    CLEANUP(redis_reader_free) struct redis_reader *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->arena = arena_new();
    r->hi = redisReaderCreateWithFunctions(&object_functions);
    if (!r->arena || !r->hi)
        return NULL;
    r->hi->privdata = r;
    return STEAL(r);
}

struct redis_reader *redis_reader_free(struct redis_reader *r)
{
    if (!r)
        return NULL;
    if (r->hi)
        redisReaderFree(r->hi);
    arena_free(r->arena);
    free(r);
    return NULL;
}

int redis_reader_feed(struct redis_reader *r, const char *p, size_t len)
{
    if (r->hi->len - r->hi->pos > (size_t)LIMIT_MESSAGE_BYTES + (64u << 10))
        return -EMSGSIZE;
    return redisReaderFeed(r->hi, p, len) == REDIS_OK ? 0 : -ENOMEM;
}

int redis_reader_next(struct redis_reader *r, const struct redis_reply **ret_reply, struct err *e)
{
    if (r->stale) {
        arena_reset(r->arena);
        r->n_elements = 0;
        r->n_bytes = 0;
        r->stale = false;
    }
    void *reply = NULL;
    if (redisReaderGetReply(r->hi, &reply) != REDIS_OK) {
        if (r->hi->err == REDIS_ERR_OOM)
            return err_set(e, -EPROTO, "a reply is over the limit, or memory is out");
        return err_set(e, -EPROTO, "not a Redis server's reply: %s", r->hi->errstr);
    }
    r->stale = reply != NULL;
    *ret_reply = reply;
    return 0;
}

static void write_count(struct buf *dst, char mark, size_t n)
{
    char text[24];
    char *p = text + sizeof(text);
    *--p = '\n';
    *--p = '\r';
    do {
        *--p = (char)('0' + n % 10);
        n /= 10;
    } while (n);
    *--p = mark;
    buf_append(dst, p, (size_t)(text + sizeof(text) - p));
}

void redis_write_command(struct buf *dst, size_t n, const struct slice *argv)
{
    write_count(dst, '*', n);
    for (size_t i = 0; i < n; i++) {
        write_count(dst, '$', argv[i].len);
        buf_append(dst, argv[i].p, argv[i].len);
        buf_append(dst, "\r\n", 2);
    }
}
