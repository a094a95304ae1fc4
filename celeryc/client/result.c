/* SPDX-License-Identifier: Apache-2.0 */
/* Results as a program waits for them: the tasks of a tuple, and the steps before it.
 *
 *     [[id, <tuple of what came before, or null>], null | [<tuple>, ...]]
 *
 * Waiting is SUBSCRIBE to all that is missing, then MGET, then messages, so that nothing falls between; a connection
 * that is lost is made again with both steps. RETRY, STARTED and states of one's own are progress, not results. A step
 * that failed before the awaited one ends the wait with its error, as Celery's get() does. */

#include "celeryc/client/client_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/map.h"
#include "celeryc/message/record.h"
#include "celeryc/result/result.h"

#include <errno.h>
#include <math.h>

#define MGET_KEYS  500
#define LOOK_MS    5000  /* between two looks at the store while nothing comes */
#define MAX_NESTED 20000 /* steps before, groups in groups */

/* One task. */
struct leaf {
    struct slice id, key;
    char *record; /* NULL: none yet */
    struct record_view view;
    bool ready;
};

struct node {
    struct leaf *leaf; /* NULL: a group */
    struct node *parent;
    size_t n, cap;
    struct node **v;
};

struct celeryc_result {
    struct celeryc_client *client;
    struct arena *arena;
    struct slice tuple;
    struct node *root; /* NULL: nothing was sent */
    const char *id;
    struct leaf **leaves; /* the awaited ones, then those before */
    size_t n, cap, n_awaited;
    struct map *by_key;
    const struct leaf *failed; /* whose error it is */
    bool ended;
    struct buf json;
    char *state, *traceback; /* state: malloc */
};

/* ---- the tuple: our own text, which may nest deeper than JSON is read ---- */

struct reader {
    struct celeryc_result *r;
    const char *p, *end;
    int depth;
};

static bool skip(struct reader *t, const char *what)
{
    size_t len = strlen(what);
    if ((size_t)(t->end - t->p) < len || memcmp(t->p, what, len) != 0)
        return false;
    t->p += len;
    return true;
}

static int read_id(struct reader *t, struct slice *ret_id)
{
    const char *from = t->p;
    if (!skip(t, "\""))
        return -EINVAL;
    while (t->p < t->end && *t->p != '"')
        t->p += *t->p == '\\' ? 2 : 1;
    if (!skip(t, "\""))
        return -EINVAL;
    const struct json_val v = {JSON_K_STRING, {from, (size_t)(t->p - from)}};
    return json_string_z(t->r->arena, v, ret_id);
}

static int new_leaf(struct celeryc_result *r, struct slice id, struct leaf **ret_leaf)
{
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    struct leaf *l = arena_alloc(r->arena, sizeof(*l));
    result_key(&key, client_result_prefix(r->client), id);
    char *copy = buf_ok(&key) ? NULL : arena_strdup(r->arena, buf_slice(&key));
    if (!l || !copy)
        return -ENOMEM;
    *l = (struct leaf){.id = id, .key = {copy, key.len}};
    *ret_leaf = l;
    return 0;
}

static int grow(struct celeryc_result *r, void *array, size_t n, size_t *cap)
{
    void **at = array;
    if (n < *cap)
        return 0;
    size_t more = *cap ? *cap * 2 : 4;
    void *fresh = arena_alloc_array(r->arena, more, sizeof(void *));
    if (!fresh)
        return -ENOMEM;
    if (n)
        memcpy(fresh, *at, n * sizeof(void *));
    *at = fresh;
    *cap = more;
    return 0;
}

static int read_node(struct reader *t, struct node **ret_node);

static int read_members(struct reader *t, struct node *node)
{
    for (bool first = true; !skip(t, "]"); first = false) {
        if (!first && !skip(t, ", "))
            return -EINVAL;
        int r = grow(t->r, &node->v, node->n, &node->cap);
        if (r == 0)
            r = read_node(t, &node->v[node->n]);
        if (r)
            return r;
        node->n++;
    }
    return 0;
}

static int read_rest(struct reader *t, struct node *node)
{
    struct slice id;
    int r = skip(t, "[[") ? read_id(t, &id) : -EINVAL;
    if (r || !skip(t, ", "))
        return r ? r : -EINVAL;
    if (t->depth == 1)
        t->r->id = id.p;
    if (!skip(t, "null")) {
        r = read_node(t, &node->parent);
        if (r)
            return r;
    }
    if (!skip(t, "], "))
        return -EINVAL;
    if (skip(t, "null"))
        r = new_leaf(t->r, id, &node->leaf);
    else
        r = skip(t, "[") ? read_members(t, node) : -EINVAL;
    return r == 0 && !skip(t, "]") ? -EINVAL : r;
}

static int read_node(struct reader *t, struct node **ret_node)
{
    struct node *node = arena_alloc(t->r->arena, sizeof(*node));
    if (!node)
        return -ENOMEM;
    if (t->depth == MAX_NESTED)
        return -E2BIG;
    *ret_node = node;
    t->depth++;
    int r = read_rest(t, node);
    t->depth--;
    return r;
}

/* ---- making ---- */

static int collect(struct celeryc_result *r, const struct node *node)
{
    if (node->leaf) {
        int code = grow(r, &r->leaves, r->n, &r->cap);
        if (code == 0)
            r->leaves[r->n++] = node->leaf;
        return code ? code : map_set(r->by_key, node->leaf->key, node->leaf);
    }
    for (size_t i = 0; i < node->n; i++) {
        int code = collect(r, node->v[i]);
        if (code)
            return code;
    }
    return 0;
}

static int build(struct celeryc_result *r)
{
    struct reader t = {.r = r, .p = r->tuple.p, .end = r->tuple.p + r->tuple.len};
    r->id = "";
    if (skip(&t, "null"))
        return 0;
    struct node *root = NULL;
    int code = read_node(&t, &root);
    if (code || !root)
        return code;
    r->root = root;
    code = collect(r, root);
    r->n_awaited = r->n;
    for (const struct node *p = root->parent; code == 0 && p; p = p->parent)
        code = collect(r, p);
    return code;
}

struct celeryc_result *client_result_new(struct celeryc_client *c, struct slice tuple)
{
    struct celeryc_result *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->client = c;
    r->arena = arena_new();
    r->by_key = map_new();
    if (r->arena)
        r->tuple = (struct slice){arena_strdup(r->arena, tuple), tuple.len};
    if (!r->by_key || !r->tuple.p || build(r)) {
        celeryc_result_free(r);
        return NULL;
    }
    return r;
}

void celeryc_result_free(struct celeryc_result *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->n; i++)
        free(r->leaves[i]->record);
    arena_free(r->arena);
    map_free(r->by_key);
    buf_deinit(&r->json);
    free(r->state);
    free(r->traceback);
    free(r);
}

const char *celeryc_result_id(const struct celeryc_result *r)
{
    return r ? r->id : NULL;
}

const char *celeryc_result_tuple(const struct celeryc_result *r)
{
    return r ? r->tuple.p : NULL;
}

/* ---- records ---- */

/* A stored record of one task. What cannot be read is as if it were not there. */
static int take_record(struct leaf *l, struct slice stored)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct record_view view;
    struct slice text;
    int code = a ? record_inflate(a, stored, &text, NULL) : -ENOMEM;
    if (code)
        return code == -ENOMEM ? code : 0;
    CLEANUP(mem_free) char *copy = slice_dup(text);
    if (!copy)
        return -ENOMEM;
    code = record_parse((struct slice){copy, text.len}, &view, NULL);
    if (code)
        return code == -ENOMEM ? code : 0;
    free(l->record);
    l->record = STEAL(copy);
    l->view = view;
    l->ready = record_ready(&view);
    return 0;
}

static bool is_state(const struct leaf *l, const char *state)
{
    size_t len = strlen(state);
    return l->record && l->view.status.raw.len == len + 2 &&
           memcmp(l->view.status.raw.p + 1, state, len) == 0;
}

static bool has_failed(const struct leaf *l)
{
    return l->ready && !is_state(l, "SUCCESS");
}

static int mget(struct celeryc_result *r, struct redis_sync *s, size_t from, size_t n,
                struct err *e)
{
    CLEANUP(mem_free) struct slice *argv = calloc(n + 1, sizeof(*argv));
    const struct redis_reply *reply;
    if (!argv)
        return -ENOMEM;
    argv[0] = SLICE_LIT("MGET");
    for (size_t i = 0; i < n; i++)
        argv[i + 1] = r->leaves[from + i]->key;
    int code = redis_sync_command(s, n + 1, argv, &reply, e);
    for (size_t i = 0; code == 0 && i < reply->n && i < n; i++)
        if (reply->elem[i]->kind == REDIS_R_STRING)
            code = take_record(r->leaves[from + i], reply->elem[i]->str);
    return code;
}

static int read_all(struct celeryc_result *r, struct redis_sync *s, struct err *e)
{
    int code = 0;
    for (size_t at = 0; code == 0 && at < r->n; at += MGET_KEYS)
        code = mget(r, s, at, MIN(r->n - at, MGET_KEYS), e);
    return code;
}

/* ---- how it stands ---- */

/* The one whose error is the result's: the first of the awaited ones, else the first step of all that failed. */
static const struct leaf *find_failed(const struct celeryc_result *r, bool all_there)
{
    for (size_t i = 0; i < r->n_awaited && all_there; i++)
        if (has_failed(r->leaves[i]))
            return r->leaves[i];
    for (size_t i = r->n; i > r->n_awaited && !all_there; i--)
        if (has_failed(r->leaves[i - 1]))
            return r->leaves[i - 1];
    return NULL;
}

static bool all_ready(const struct celeryc_result *r)
{
    for (size_t i = 0; i < r->n_awaited; i++)
        if (!r->leaves[i]->ready)
            return false;
    return true;
}

static bool look(struct celeryc_result *r)
{
    bool all = all_ready(r);
    r->failed = find_failed(r, all);
    r->ended = all || r->failed;
    return r->ended;
}

static void write_value(struct buf *dst, const struct node *node)
{
    if (node->leaf) {
        buf_append_slice(dst, node->leaf->view.result.raw);
        return;
    }
    buf_append_char(dst, '[');
    for (size_t i = 0; i < node->n; i++) {
        buf_append_str(dst, i ? ", " : "");
        write_value(dst, node->v[i]);
    }
    buf_append_char(dst, ']');
}

/* The texts that a caller reads after the end. */
static int settle(struct celeryc_result *r)
{
    struct slice text = SLICE_NULL;
    buf_reset(&r->json);
    free(r->traceback);
    r->traceback = NULL;
    if (!r->failed) {
        if (r->root)
            write_value(&r->json, r->root);
        else
            buf_append_str(&r->json, "null");
        return buf_ok(&r->json);
    }
    buf_append_slice(&r->json, r->failed->view.result.raw);
    if (r->failed->view.traceback.kind == JSON_K_STRING) {
        CLEANUP(arena_free) struct arena *a = arena_new();
        if (!a || json_string(a, r->failed->view.traceback, &text))
            return -ENOMEM;
        r->traceback = slice_dup(text);
        if (!r->traceback)
            return -ENOMEM;
    }
    return buf_ok(&r->json);
}

/* ---- waiting ---- */

static int subscribe(struct celeryc_result *r, struct redis_sync *s, const char *word,
                     struct err *e)
{
    CLEANUP(mem_free) struct slice *channels = calloc(r->n + 1, sizeof(*channels));
    size_t n = 0;
    if (!channels)
        return -ENOMEM;
    for (size_t i = 0; i < r->n; i++)
        if (!r->leaves[i]->ready || word[0] == 'U')
            channels[n++] = r->leaves[i]->key;
    return n ? redis_sync_subscribe(s, word, n, channels, e) : 0;
}

static int64_t left_ms(int64_t deadline_ns)
{
    if (!deadline_ns)
        return LOOK_MS;
    int64_t left = (deadline_ns - clock_mono_ns() + NS_PER_MS - 1) / NS_PER_MS;
    return MAX(0, MIN(left, LOOK_MS));
}

/* Until something has come, or a look at the store is due. */
static int await_push(struct celeryc_result *r, struct redis_sync *s, int64_t deadline_ns,
                      bool *ret_look, struct err *e)
{
    const struct redis_reply *push;
    struct err why = ERR_INIT;
    int code = redis_sync_push(s, left_ms(deadline_ns), &push, &why);
    *ret_look = code == -ETIMEDOUT;
    if (code == -ETIMEDOUT)
        return deadline_ns && clock_mono_ns() >= deadline_ns ? code : 0;
    if (code)
        return err_set(e, code, "%s", err_text(&why, code));
    if (push->n != 3)
        return 0;
    struct leaf *l = map_get(r->by_key, push->elem[1]->str);
    return l && !l->ready ? take_record(l, push->elem[2]->str) : 0;
}

/* As long as the connection lasts. -ETIMEDOUT is the caller's deadline only. */
static int wait_connected(struct celeryc_result *r, int64_t deadline_ns, struct attempts *tries,
                          struct err *e)
{
    struct redis_sync *s = NULL;
    bool again = true;
    int code = client_backend(r->client, &s, e);
    if (code == 0)
        code = subscribe(r, s, "SUBSCRIBE", e);
    while (code == 0) {
        if (again)
            code = read_all(r, s, e);
        if (code)
            break;
        *tries = client_attempts(deadline_ns); /* it answers */
        if (look(r))
            return subscribe(r, s, "UNSUBSCRIBE", e);
        code = await_push(r, s, deadline_ns, &again, e);
    }
    if (code == -ETIMEDOUT && deadline_ns && clock_mono_ns() >= deadline_ns)
        (void)subscribe(r, s, "UNSUBSCRIBE", e);
    return code;
}

static int64_t deadline_of(double timeout_s)
{
    if (!(timeout_s >= 0) || timeout_s > 1e9)
        return 0;
    return clock_mono_ns() + (int64_t)(timeout_s * (double)NS_PER_S) + 1;
}

int celeryc_result_wait(struct celeryc_result *r, double timeout_s)
{
    const int64_t deadline_ns = deadline_of(timeout_s);
    struct attempts tries = client_attempts(deadline_ns);
    struct err e = ERR_INIT;
    int code = 0;
    if (!r)
        return -EINVAL;
    if (!look(r)) {
        do {
            e = ERR_INIT;
            code = wait_connected(r, deadline_ns, &tries, &e);
        } while (code && !r->ended && client_again(&tries, client_backend_now(r->client), code));
    }
    if (r->ended)
        code = settle(r); /* also when it could not be unsubscribed any more */
    if (code == 0)
        return 0;
    if (deadline_ns && clock_mono_ns() >= deadline_ns && (code == -ETIMEDOUT || code == -EIO))
        return client_fail(r->client, -ETIMEDOUT, &e);
    return client_fail(r->client, code == -ETIMEDOUT ? -EIO : code, &e);
}

/* ---- asking ---- */

static int refresh(struct celeryc_result *r)
{
    struct redis_sync *s = NULL;
    struct attempts tries = client_attempts(0);
    struct err e = ERR_INIT;
    int code;
    do {
        e = ERR_INIT;
        code = client_backend(r->client, &s, &e);
        if (code == 0)
            code = read_all(r, s, &e);
    } while (code && client_again(&tries, client_backend_now(r->client), code));
    return code ? client_fail(r->client, code, &e) : 0;
}

static struct slice state_of(const struct celeryc_result *r)
{
    if (r->failed)
        return (struct slice){r->failed->view.status.raw.p + 1, r->failed->view.status.raw.len - 2};
    if (r->ended)
        return SLICE_LIT("SUCCESS");
    if (r->n_awaited == 1 && r->leaves[0]->record) {
        struct slice raw = r->leaves[0]->view.status.raw;
        return (struct slice){raw.p + 1, raw.len - 2};
    }
    return SLICE_LIT("PENDING");
}

const char *celeryc_result_state(struct celeryc_result *r)
{
    if (!r || (!look(r) && refresh(r)))
        return NULL;
    (void)look(r);
    if (r->ended && settle(r))
        return NULL;
    free(r->state);
    r->state = slice_dup(state_of(r));
    return r->state;
}

const char *celeryc_result_json(const struct celeryc_result *r, size_t *ret_len)
{
    bool there = r && r->ended && r->json.data;
    if (ret_len)
        *ret_len = there ? r->json.len : 0;
    return there ? r->json.data : NULL;
}

const char *celeryc_result_traceback(const struct celeryc_result *r)
{
    return r ? r->traceback : NULL;
}

int celeryc_result_forget(struct celeryc_result *r)
{
    struct redis_sync *s = NULL;
    struct err e = ERR_INIT;
    if (!r)
        return -EINVAL;
    int code = client_backend(r->client, &s, &e);
    for (size_t i = 0; code == 0 && i < r->n; i++)
        redis_sync_queue(s, 2, (const struct slice[]){SLICE_LIT("DEL"), r->leaves[i]->key});
    if (code == 0)
        code = redis_sync_flush(s, &e);
    return code ? client_fail(r->client, -EIO, &e) : 0;
}

void client_write_failure(struct buf *dst, const struct celeryc_result *r)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct slice type = SLICE_NULL;
    if (!a || !r->failed)
        return;
    struct json_val x = r->failed->view.result, args = json_get(x, "exc_message");
    buf_append_str(dst, "Dependency ");
    buf_append_slice(dst, r->failed->id);
    buf_append_str(dst, " raised ");
    if (json_string(a, json_get(x, "exc_type"), &type) == 0 && args.kind == JSON_K_ARRAY)
        record_write_exception_repr(dst, type, args.raw);
    else
        json_write_python(dst, x);
}
