/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on claims and records, gathered per loop turn and done by one script call.
 *
 *   fifo/heads --(end of a turn, none out)--> batch --(answer)--> callbacks
 *                                              ^ |
 *                                              +-+ connection lost: sent again under the same number
 *
 * Only one batch is out at a time: under load the next one grows meanwhile, which is what makes it cheap. The script
 * keeps the last number and answer in our worker entry, so that a batch whose answer was lost is answered and not done
 * twice. Returns to the head leave last and the newest first, so that the oldest ends nearest the head.
 *
 * What must never happen: an operation that is forgotten (its callback comes or the transport is freed), a batch that
 * changes once it has a number. */
#include <errno.h>
#include <string.h>

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"
#include "celeryc/base/num.h"
#include "celeryc/message/json.h"
#include "celeryc/message/message.h"
#include "celeryc/transport/stored.h"
#include "celeryc/transport/transport_priv.h"

#define BRIEF_MS 60000 /* how long the waiters block briefly after a message was passed on */

/* ---- claims that are ours ---- */

int held_add(struct transport *t, uint64_t seq, bool started)
{
    struct held *h = calloc(1, sizeof(*h));
    if (!h)
        return -ENOMEM;
    struct held **bucket = &t->buckets[seq % HELD_BUCKETS];
    *h = (struct held){.seq = seq, .started = started, .next = *bucket};
    *bucket = h;
    list_push_back(&t->held, &h->link);
    return 0;
}

struct held *held_find(const struct transport *t, uint64_t seq)
{
    struct held *h = t->buckets[seq % HELD_BUCKETS];
    while (h && h->seq != seq)
        h = h->next;
    return h;
}

static void held_remove(struct transport *t, uint64_t seq)
{
    struct held **at = &t->buckets[seq % HELD_BUCKETS];
    while (*at && (*at)->seq != seq)
        at = &(*at)->next;
    struct held *h = *at;
    if (!h)
        return;
    *at = h->next;
    list_remove(&h->link);
    free(h);
}

int field_seq(const struct transport *t, struct slice field, uint64_t *ret_seq)
{
    size_t len = strlen(t->me);
    if (field.len <= len + 1 || memcmp(field.p, t->me, len) != 0 || field.p[len] != ':')
        return -EINVAL;
    return num_parse_u64((struct slice){field.p + len + 1, field.len - len - 1}, ret_seq);
}

uint64_t claim_seq(const struct transport *t, const struct claim *c)
{
    uint64_t seq = 0;
    int r = field_seq(t, slice_str(c->field), &seq);
    ASSERT(r == 0);
    return seq;
}

/* ---- building ---- */

static struct op *op_new(const struct op *like, size_t n, const struct slice *argv)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += argv[i].len;
    struct op *op = calloc(1, sizeof(*op) + n * sizeof(*argv) + bytes + 1);
    if (!op)
        return NULL;
    *op = *like;
    op->ends = like->kind == 'F' || like->kind == 'R' || like->kind == 'D' || like->kind == 'P';
    op->bytes = bytes;
    op->n = n;
    char *p = (char *)(op->argv + n);
    for (size_t i = 0; i < n; i++) {
        op->argv[i] = (struct slice){p, argv[i].len};
        if (argv[i].len)
            memcpy(p, argv[i].p, argv[i].len);
        p += argv[i].len;
    }
    return op;
}

/* The note of a start is worth sending only while the task runs: an end that comes before it left takes its place. */
static void mark_kept(struct transport *t, struct op *op)
{
    struct held *h = op->ends || op->kind == 'M' || op->kind == 'N' ? held_find(t, op->seq) : NULL;
    if (!h)
        return;
    if (h->mark) {
        list_remove(&h->mark->link);
        free(h->mark);
    }
    h->mark = op->kind == 'M' ? op : NULL;
}

/* Queues an operation like the given one. Out of memory cannot be answered here: the claim would hang for ever, so the
 * worker ends and its claims are restored by the others. */
void ops_issue(struct transport *t, const struct op *like, size_t n, const struct slice *argv)
{
    if (t->state == TRANSPORT_DEAD)
        return;
    struct op *op = op_new(like, n, argv);
    if (!op) {
        transport_die(t, "out of memory");
        return;
    }
    list_push_back(op->head ? &t->heads : &t->fifo, &op->link);
    if (op->head)
        t->heads_sorted = false;
    mark_kept(t, op);
}

static struct slice flag(bool on)
{
    return on ? SLICE_LIT("1") : SLICE_LIT("0");
}

static struct slice number(char dst[24], int64_t v)
{
    return (struct slice){dst, (size_t)snprintf(dst, 24, "%lld", (long long)v)};
}

/* key, value, ttl of a record, or of none. */
static void put_record(struct slice *dst, const struct transport_record *r, char ttl[24])
{
    dst[0] = r && r->key.p ? r->key : SLICE_LIT("");
    dst[1] = r && r->key.p ? r->value : SLICE_LIT("");
    dst[2] = number(ttl, r && r->ttl_s > 0 ? r->ttl_s : 0);
}

static size_t tail_bytes(const struct transport *t, const struct claim *c)
{
    return c->queue_index < t->n_queues ? strlen(t->queues[c->queue_index].tail) : 0;
}

void transport_start_claim(struct transport *t, const struct claim *c, transport_done_fn fn,
                           void *arg)
{
    uint64_t seq = claim_seq(t, c);
    ops_issue(t, &(struct op){.kind = 'S', .seq = seq, .fn = fn, .arg = arg}, 1,
              (struct slice[]){slice_str(c->field)});
}

void transport_note_start(struct transport *t, const struct claim *c, struct slice id)
{
    struct slice argv[] = {slice_str(c->field), {id.p, MIN(id.len, STORED_ID_BYTES)}};
    ops_issue(t, &(struct op){.kind = 'M', .seq = claim_seq(t, c)}, ARRAY_SIZE(argv), argv);
}

void transport_count_death(struct transport *t, const struct claim *c, struct slice id,
                           transport_done_fn fn, void *arg)
{
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    stored_deaths_key(&key, t->prefix, id);
    char max[24];
    if (buf_ok(&key)) {
        transport_die(t, "out of memory");
        return;
    }
    struct slice argv[] = {slice_str(c->field), buf_slice(&key), number(max, TRANSPORT_MAX_DEATHS)};
    ops_issue(t, &(struct op){.kind = 'N', .seq = claim_seq(t, c), .fn = fn, .arg = arg},
              ARRAY_SIZE(argv), argv);
}

void transport_forget_deaths(struct transport *t, struct slice id)
{
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    stored_deaths_key(&key, t->prefix, id);
    if (buf_ok(&key) == 0) /* else its time runs out */
        ops_issue(t, &(struct op){.kind = 'E'}, 1, (struct slice[]){buf_slice(&key)});
}

void transport_return(struct transport *t, const struct claim *c, bool head, bool redelivered,
                      transport_done_fn fn, void *arg)
{
    CLEANUP(buf_deinit) struct buf marked = BUF_INIT;
    char tail[24];
    uint64_t seq = claim_seq(t, c);
    struct slice raw = {c->raw, c->raw_len};
    if (redelivered && c->raw) {
        if (message_write_redelivered(&marked, raw)) {
            transport_die(t, "out of memory");
            return;
        }
        raw = buf_slice(&marked);
    } else if (tail_bytes(t, c)) {
        raw = SLICE_LIT(""); /* cut from the stored value: fewer bytes travel */
    }
    struct slice argv[] = {slice_str(c->field), flag(c->started),
                           head ? SLICE_LIT("R") : SLICE_LIT("L"), raw,
                           number(tail, (int64_t)tail_bytes(t, c))};
    ops_issue(t, &(struct op){.kind = 'R', .seq = seq, .head = head, .fn = fn, .arg = arg},
              ARRAY_SIZE(argv), argv);
}

void ops_return_field(struct transport *t, uint64_t seq, size_t tail_len, transport_done_fn fn,
                      void *arg)
{
    char field[FIELD_SIZE], tail[24];
    (void)snprintf(field, sizeof(field), FIELD_FORMAT, t->me, (unsigned long long)seq);
    struct slice argv[] = {slice_str(field), flag(false), SLICE_LIT("R"), SLICE_LIT(""),
                           number(tail, (int64_t)tail_len)};
    ops_issue(t, &(struct op){.kind = 'R', .seq = seq, .head = true, .fn = fn, .arg = arg},
              ARRAY_SIZE(argv), argv);
}

static void delay(struct transport *t, const struct claim *c, struct slice name, struct slice raw,
                  int64_t due_us, transport_done_fn fn, void *arg)
{
    char due[24], tail[24], id[UUID_TEXT_SIZE];
    uint64_t seq = claim_seq(t, c);
    int64_t due_ms = (due_us + 999) / 1000 + t->clock_offset_ms;
    uuid4_text(id);
    struct slice argv[] = {slice_str(c->field),
                           flag(c->started),
                           number(due, due_ms),
                           name.len <= STORED_ID_BYTES ? name : SLICE_LIT(""),
                           slice_str(id),
                           raw,
                           number(tail, (int64_t)tail_bytes(t, c))};
    ops_issue(t, &(struct op){.kind = 'D', .seq = seq, .fn = fn, .arg = arg}, ARRAY_SIZE(argv),
              argv);
    promote_expect(t, due_ms);
}

void transport_delay(struct transport *t, const struct claim *c, struct slice name, int64_t due_us,
                     transport_done_fn fn, void *arg)
{
    /* "": cut from the stored value, so fewer bytes travel */
    struct slice raw = tail_bytes(t, c) ? SLICE_LIT("") : (struct slice){c->raw, c->raw_len};
    delay(t, c, name, raw, due_us, fn, arg);
}

void transport_forward(struct transport *t, const struct claim *c, struct slice name,
                       struct slice raw, int64_t due_us, transport_done_fn fn, void *arg)
{
    t->brief_until_ms = (int64_t)uv_now(t->loop) + BRIEF_MS;
    if (due_us) {
        delay(t, c, name, raw, due_us, fn, arg);
        return;
    }
    struct slice argv[] = {slice_str(c->field), flag(c->started), SLICE_LIT("L"), raw,
                           SLICE_LIT("0")};
    ops_issue(t, &(struct op){.kind = 'R', .seq = claim_seq(t, c), .fn = fn, .arg = arg},
              ARRAY_SIZE(argv), argv);
}

void transport_store(struct transport *t, const struct transport_record *record,
                     transport_done_fn fn, void *arg)
{
    char ttl[24];
    struct slice argv[3];
    put_record(argv, record, ttl);
    ops_issue(t, &(struct op){.kind = 'T', .fn = fn, .arg = arg}, ARRAY_SIZE(argv), argv);
}

void transport_publish(struct transport *t, const struct transport_push *push, transport_done_fn fn,
                       void *arg)
{
    CLEANUP(mem_free) char *list = transport_list_key(t, push->queue, push->priority);
    if (!list) {
        transport_die(t, "out of memory");
        return;
    }
    ops_issue(t, &(struct op){.kind = 'U', .fn = fn, .arg = arg}, 2,
              (struct slice[]){slice_str(list), push->raw});
}

/* ---- sending ---- */

static int newest_first(const void *a, const void *b)
{
    uint64_t x = (*(const struct op *const *)a)->seq, y = (*(const struct op *const *)b)->seq;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void sort_heads(struct transport *t)
{
    size_t n = 0;
    LIST_FOREACH(it, &t->heads)
        n++;
    t->heads_sorted = true;
    CLEANUP(mem_free) struct op **all = calloc(n + 1, sizeof(struct op *));
    if (!all)
        return; /* the order is a courtesy, not a promise */
    n = 0;
    LIST_FOREACH(it, &t->heads)
        all[n++] = LIST_ENTRY(it, struct op, link);
    qsort(all, n, sizeof(struct op *), newest_first);
    list_init(&t->heads);
    for (size_t i = 0; i < n; i++)
        list_push_back(&t->heads, &all[i]->link);
}

static void gather(struct transport *t, struct list *from, size_t *n, size_t *bytes)
{
    while (!list_empty(from) && *n < OPS_PER_BATCH && *bytes < BYTES_PER_BATCH) {
        struct op *op = LIST_ENTRY(from->next, struct op, link);
        list_remove(&op->link);
        list_push_back(&t->batch, &op->link);
        struct held *h = op->kind == 'M' ? held_find(t, op->seq) : NULL;
        if (h)
            h->mark = NULL;
        *bytes += op->bytes;
        ++*n;
    }
}

static enum transport_done done_of(char answer)
{
    if (answer == '2')
        return TRANSPORT_CLAIMED;
    if (answer == '3')
        return TRANSPORT_POISON;
    return answer == '0' ? TRANSPORT_LOST : TRANSPORT_DONE;
}

static void complete(struct transport *t, const struct redis_reply *reply)
{
    struct list done;
    list_init(&done);
    while (!list_empty(&t->batch)) {
        struct list *first = t->batch.next;
        list_remove(first);
        list_push_back(&done, first);
    }
    size_t i = 0;
    while (!list_empty(&done)) {
        struct op *op = LIST_ENTRY(done.next, struct op, link);
        list_remove(&op->link);
        char answer = i < reply->str.len ? reply->str.p[i] : '0';
        bool ok = answer != '0';
        i++;
        struct held *h = op->kind == 'S' ? held_find(t, op->seq) : NULL;
        if (h)
            h->started = ok;
        if (op->ends || (h && !ok))
            held_remove(t, op->seq);
        if (ok)
            ends_note_records(t, op);
        if (op->fn && t->state != TRANSPORT_DEAD)
            op->fn(done_of(answer), op->arg);
        free(op);
    }
}

static void on_ops(const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    t->batch_out = false;
    if (!reply)
        return; /* sent again after the reconnect */
    if (is_gone(reply)) {
        if (t->state == TRANSPORT_UP)
            transport_enter(t);
        else
            ops_resend(t);
        return;
    }
    if (reply->kind == REDIS_R_ERROR) {
        if (++t->n_batch_errors >= 20)
            transport_die(t, reply->str.p);
        else
            (void)reply_failed(t, reply);
        return;
    }
    if (reply->kind != REDIS_R_STRING)
        log_error("transport: batch %llu was answered with \"%.64s\"",
                  (unsigned long long)t->batch_number, reply->str.p ? reply->str.p : "");
    t->n_batch_errors = 0;
    complete(t, reply);
}

static void send_batch(struct transport *t)
{
    args_begin(t);
    args_i64(t, (int64_t)t->batch_number);
    args_str(t, t->k_stray);
    LIST_FOREACH(it, &t->batch) {
        struct op *op = LIST_ENTRY(it, struct op, link);
        args_add(t, (struct slice){&op->kind, 1});
        for (size_t i = 0; i < op->n; i++)
            args_add(t, op->argv[i]);
    }
    t->batch_out = true;
    args_eval(t, &script_ops, on_ops, t);
}

void ops_resend(struct transport *t)
{
    if (!t->batch_out && !list_empty(&t->batch))
        send_batch(t);
}

void ops_turn(struct transport *t)
{
    if (t->batch_out || !list_empty(&t->batch) || ops_idle(t))
        return;
    size_t n = 0, bytes = 0;
    gather(t, &t->fifo, &n, &bytes);
    if (list_empty(&t->fifo)) {
        if (!t->heads_sorted)
            sort_heads(t);
        gather(t, &t->heads, &n, &bytes);
    }
    t->batch_number++;
    send_batch(t);
}

bool ops_idle(const struct transport *t)
{
    return list_empty(&t->fifo) && list_empty(&t->heads) && list_empty(&t->batch);
}

void ops_setup(struct transport *t)
{
    list_init(&t->fifo);
    list_init(&t->heads);
    list_init(&t->batch);
    list_init(&t->held);
    t->heads_sorted = true;
}

static void free_ops(struct list *l)
{
    while (!list_empty(l)) {
        struct op *op = LIST_ENTRY(l->next, struct op, link);
        list_remove(&op->link);
        free(op);
    }
}

void ops_teardown(struct transport *t)
{
    free_ops(&t->fifo);
    free_ops(&t->heads);
    free_ops(&t->batch);
    while (!list_empty(&t->held))
        held_remove(t, LIST_ENTRY(t->held.next, struct held, link)->seq);
}
