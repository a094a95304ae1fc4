/* SPDX-License-Identifier: Apache-2.0 */
/* Giving back what a dead worker held, and what an answer that we never got claimed for us.
 *
 *   mourn -> kill its waiters -> collect -> (fetch -> requeue/adopt)* -> bury
 *
 * mourn takes a lock that only saves work; what makes two restorers safe is that every step is refused once the dead's
 * score has changed, and that an entry moves only where HDEL found it. Claims go back to the head of the list that they
 * came from, marked redelivered, the newest first so that the oldest is consumed first, and the death of a late-ack task
 * that had started is counted; started early-ack tasks, and late-ack ones that have now died too often, move into our own
 * running hash under a fresh field and are handed out as orphans. Each call moves at most RESTORE_FIELDS
 * entries and about RESTORE_BUDGET bytes. A connection lost in the middle ends the restore; the next look at the dead
 * begins it again.
 *
 * Reconciliation is the same with ourselves as the dead: fields under our name that we do not know come from a claim
 * whose answer was lost. They were never handed to anybody, so they go back unmarked; those that belong to an adoption
 * under way are handed out as the orphans that they are.
 *
 * What must never happen: an entry removed here that is not pushed or adopted in the same script. */
#include <errno.h>
#include <string.h>

#include "celeryc/base/log.h"
#include "celeryc/base/num.h"
#include "celeryc/message/json.h"
#include "celeryc/message/message.h"
#include "celeryc/transport/stored.h"
#include "celeryc/transport/transport_priv.h"

#define LOCK_MS    "10000"
#define MAX_ROUNDS 20

struct restore {
    struct transport *t;
    char *id, *score, *node;
    char *k_worker, *k_claims, *k_running, *k_lock;
    char **waiting, **lists; /* of its queues */
    size_t n_queues;
    char **fields; /* newest first */
    size_t n_fields, at;
    size_t n_fetch; /* fields of the fetch that is out */
    unsigned rounds;
    size_t n_requeued, n_adopted;
    uint64_t adopt_seq;
    struct adoption *adoption; /* whose answer is out */
    bool ends_with_adoption;
};

static void step_collect(struct restore *r);
static void step_fetch(struct restore *r);

static void free_texts(char **v, size_t n)
{
    for (size_t i = 0; v && i < n; i++)
        free(v[i]);
    free(v);
}

static void restore_free(struct restore *r)
{
    free(r->id);
    free(r->score);
    free(r->node);
    free(r->k_worker);
    free(r->k_claims);
    free(r->k_running);
    free(r->k_lock);
    free_texts(r->waiting, r->n_queues);
    free_texts(r->lists, r->n_queues);
    free_texts(r->fields, r->n_fields);
    free(r);
}

static void restore_end(struct restore *r)
{
    if (r->t->restore == r)
        r->t->restore = NULL;
    restore_free(r);
}

/* Answers go to the object that asked; one that was cancelled meanwhile ends here. True: go on. */
static bool answered(struct restore *r, const struct redis_reply *reply)
{
    struct transport *t = r->t;
    if (reply && t->restore == r && t->state == TRANSPORT_UP) {
        if (is_gone(reply))
            transport_enter(t);
        else if (reply->kind != REDIS_R_STATUS && !reply_failed(t, reply))
            return true;
    }
    restore_end(r);
    return false;
}

static void begin_args(struct restore *r)
{
    args_begin(r->t);
    args_str(r->t, r->id);
    args_str(r->t, r->score);
}

/* ---- names ---- */

/* A name that lives as long as the transport: one of our queues, or one learned from an orphan. */
static const char *queue_name(struct transport *t, struct slice name, size_t *ret_index)
{
    for (size_t i = 0; i < t->n_queues; i++) {
        if (slice_eq_str(name, t->queues[i].name)) {
            *ret_index = i;
            return t->queues[i].name;
        }
    }
    *ret_index = SIZE_MAX;
    for (size_t i = 0; i < t->n_foreign_queues; i++) {
        if (slice_eq_str(name, t->foreign_queues[i]))
            return t->foreign_queues[i];
    }
    char *copy = slice_dup(name);
    char **more = realloc(t->foreign_queues, (t->n_foreign_queues + 1) * sizeof(*more));
    if (more)
        t->foreign_queues = more;
    if (!copy || !more) {
        free(copy);
        return NULL;
    }
    t->foreign_queues[t->n_foreign_queues++] = copy;
    return copy;
}

/* A stored value to a claim under seq. NULL: not our format, or out of memory. */
static struct claim *claim_of_value(struct transport *t, uint64_t seq, struct slice value)
{
    struct slice raw, tail, name;
    struct json_val v;
    CLEANUP(arena_free) struct arena *a = arena_new();
    if (!a || stored_split(value, &raw, &tail))
        return NULL;
    tail.p += strlen(", \"\", ");
    tail.len -= strlen(", \"\", ") + 1;
    if (json_scan(tail, &v, NULL) || json_string(a, v, &name))
        return NULL;
    size_t index = 0;
    const char *queue = queue_name(t, name, &index);
    struct claim *c = queue ? claim_new(t, seq, raw, index, queue) : NULL;
    if (c)
        c->started = true;
    return c;
}

/* ---- orphans ---- */

/* A note of a started late-ack task has its id behind a NUL (NOTE_LUA). */
static bool note_has_id(struct slice note)
{
    return note.len && memchr(note.p, '\0', note.len);
}

static void hand_orphan(struct transport *t, uint64_t seq, struct slice note, struct slice value,
                        const char *node)
{
    struct claim *c = claim_of_value(t, seq, value);
    if (!c || held_add(t, seq, true)) {
        /* It stays in our running hash; whoever restores us hands it out. */
        log_error(
            "transport: an entry of a dead worker cannot be read; it stays in %s under %s:%llu",
            t->k_running, t->me, (unsigned long long)seq);
        claim_free(c);
        return;
    }
    c->poison = note_has_id(note);
    if (t->ev.on_orphan)
        t->ev.on_orphan(c, node, t->arg);
    else
        claim_free(c);
}

static void adoption_free(struct adoption *a)
{
    if (!a)
        return;
    list_remove(&a->link);
    free(a->node);
    free(a);
}

static struct adoption *adoption_new(struct transport *t, uint64_t first, size_t n,
                                     const char *node)
{
    struct adoption *a = calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    a->first = first;
    a->n = n;
    a->node = slice_dup(slice_str(node));
    list_push_back(&t->adoptions, &a->link);
    if (a->node)
        return a;
    adoption_free(a);
    return NULL;
}

static const struct adoption *adoption_find(const struct transport *t, uint64_t seq)
{
    LIST_FOREACH(it, &t->adoptions) {
        const struct adoption *a = LIST_ENTRY(it, struct adoption, link);
        if (seq >= a->first && seq - a->first < a->n)
            return a;
    }
    return NULL;
}

/* ---- bury ---- */

static void on_buried(const struct redis_reply *reply, void *arg)
{
    struct restore *r = arg;
    if (!answered(r, reply))
        return;
    if (reply->integer == 0 && ++r->rounds < MAX_ROUNDS) {
        step_collect(r);
        return;
    }
    log_warning("worker %s (%s) is dead: %zu messages restored, %zu started tasks are lost",
                *r->node ? r->node : "?", r->id, r->n_requeued, r->n_adopted);
    restore_end(r);
}

static void step_bury(struct restore *r)
{
    struct transport *t = r->t;
    begin_args(r);
    args_str(t, r->k_claims);
    args_str(t, r->k_running);
    args_str(t, r->k_worker);
    args_str(t, r->k_lock);
    for (size_t i = 0; i < r->n_queues; i++)
        args_str(t, r->waiting[i]);
    args_eval(t, &script_bury, on_buried, r);
}

/* ---- fetch, requeue, adopt ---- */

static void on_requeued(const struct redis_reply *reply, void *arg)
{
    struct restore *r = arg;
    if (!answered(r, reply))
        return;
    r->n_requeued += (size_t)MAX(reply->integer, 0);
    r->at += r->n_fetch;
    step_fetch(r);
}

/* The requeue that was sent behind it carries on, unless there is none. */
static void on_adopted(const struct redis_reply *reply, void *arg)
{
    struct restore *r = arg;
    struct transport *t = r->t;
    struct adoption *a = r->adoption;
    r->adoption = NULL;
    if (reply && reply->kind == REDIS_R_ARRAY) {
        for (size_t i = 0; i < reply->n / 2 && t->state != TRANSPORT_DEAD; i++) {
            struct slice value = reply->elem[2 * i + 1]->str;
            if (value.len == 0)
                continue;
            r->n_adopted++;
            hand_orphan(t, a->first + i, reply->elem[2 * i]->str, value, r->node);
        }
    }
    if (reply) /* without an answer it stays: reconciliation asks for it */
        adoption_free(a);
    if (r->ends_with_adoption)
        restore_end(r);
}

/* Early-ack tasks that had started, and what dies too often. Sent before the requeue, whose answer carries on. */
static bool send_adopt(struct restore *r, const struct redis_reply *reply)
{
    struct transport *t = r->t;
    size_t n = 0;
    begin_args(r);
    args_str(t, r->k_claims);
    args_str(t, r->k_running);
    args_i64(t, (int64_t)t->next_seq);
    for (size_t i = 0; i < r->n_fetch; i++) {
        struct slice place = reply->elem[3 * i]->str;
        if (!slice_eq_str(place, "r") && !slice_eq_str(place, "p"))
            continue;
        args_str(t, r->fields[r->at + i]);
        n++;
    }
    if (n == 0)
        return true;
    r->adoption = adoption_new(t, t->next_seq, n, r->node);
    if (!r->adoption)
        return false;
    t->next_seq += n;
    args_eval(t, &script_adopt, on_adopted, r);
    return true;
}

/* The list for a claim without a note (it cannot be, but hands can change keys): step 0 of the queue it names. */
static const char *list_of(struct restore *r, const struct redis_reply *note, struct slice tail)
{
    struct transport *t = r->t;
    if (note->str.len)
        return note->str.p; /* ends at its NUL, if it has one */
    const char *list = t->k_stray;
    struct json_val v;
    struct slice name;
    struct arena *a = arena_new();
    tail.p += strlen(", \"\", ");
    tail.len -= strlen(", \"\", ") + 1;
    if (a && json_scan(tail, &v, NULL) == 0 && json_string(a, v, &name) == 0) {
        char *text = arena_printf(t->scratch, "%s%.*s", t->prefix, (int)name.len, name.p);
        list = text ? text : list;
    }
    arena_free(a);
    return list;
}

static int add_requeue(struct restore *r, size_t i, const struct redis_reply *reply)
{
    struct transport *t = r->t;
    struct slice raw, tail;
    CLEANUP(buf_deinit) struct buf marked = BUF_INIT;
    if (stored_split(reply->elem[3 * i + 2]->str, &raw, &tail)) {
        log_error("transport: the claim %s of a dead worker cannot be read; it is left alone",
                  r->fields[r->at + i]);
        return 0;
    }
    if (message_write_redelivered(&marked, raw))
        return -ENOMEM;
    const char *kept = arena_strdup(t->scratch, buf_slice(&marked));
    if (!kept)
        return -ENOMEM;
    args_str(t, r->fields[r->at + i]);
    args_str(t, list_of(r, reply->elem[3 * i + 1], tail));
    args_add(t, (struct slice){kept, marked.len});
    return 0;
}

static void on_fetched(const struct redis_reply *reply, void *arg)
{
    struct restore *r = arg;
    if (!answered(r, reply))
        return;
    struct transport *t = r->t;
    r->n_fetch = MIN(reply->n / 3, r->n_fields - r->at);
    bool ok = r->n_fetch > 0 && send_adopt(r, reply);
    begin_args(r);
    args_str(t, r->k_claims);
    args_str(t, t->k_deaths);
    for (size_t i = 0; ok && i < r->n_fetch; i++) {
        if (slice_eq_str(reply->elem[3 * i]->str, "u"))
            ok = add_requeue(r, i, reply) == 0;
    }
    if (ok)
        args_eval(t, &script_requeue, on_requeued, r);
    else if (!r->adoption)
        restore_end(r);
    else
        r->ends_with_adoption = true;
}

static void step_fetch(struct restore *r)
{
    struct transport *t = r->t;
    if (r->at == r->n_fields) {
        step_bury(r);
        return;
    }
    begin_args(r);
    args_str(t, r->k_claims);
    args_str(t, r->k_running);
    args_i64(t, RESTORE_BUDGET);
    args_str(t, t->k_deaths);
    args_i64(t, TRANSPORT_MAX_DEATHS);
    for (size_t i = r->at; i < r->n_fields && i - r->at < RESTORE_FIELDS; i++)
        args_str(t, r->fields[i]);
    args_eval(t, &script_fetch, on_fetched, r);
}

/* ---- mourn, collect ---- */

static uint64_t seq_of(const char *field)
{
    const char *colon = strrchr(field, ':');
    uint64_t seq = 0;
    if (!colon || num_parse_u64(slice_str(colon + 1), &seq))
        return 0;
    return seq;
}

static int newest_first(const void *a, const void *b)
{
    uint64_t x = seq_of(*(char *const *)a), y = seq_of(*(char *const *)b);
    return x < y ? 1 : x > y ? -1 : 0;
}

static void on_collected(const struct redis_reply *reply, void *arg)
{
    struct restore *r = arg;
    if (!answered(r, reply))
        return;
    free_texts(r->fields, r->n_fields);
    r->at = 0;
    r->n_fields = 0;
    r->fields = calloc(reply->n + 1, sizeof(*r->fields));
    for (size_t i = 0; r->fields && i < reply->n; i++) {
        char *field = slice_dup(reply->elem[i]->str);
        if (field)
            r->fields[r->n_fields++] = field;
    }
    if (!r->fields) {
        restore_end(r);
        return;
    }
    qsort(r->fields, r->n_fields, sizeof(*r->fields), newest_first);
    step_fetch(r);
}

static void step_collect(struct restore *r)
{
    struct transport *t = r->t;
    begin_args(r);
    args_str(t, r->k_claims);
    args_str(t, r->k_running);
    for (size_t i = 0; i < r->n_queues; i++) {
        args_str(t, r->waiting[i]);
        args_str(t, r->lists[i]);
    }
    args_eval(t, &script_collect, on_collected, r);
}

static void kill_waiters(struct restore *r, struct slice ids, struct slice run_id)
{
    struct transport *t = r->t;
    if (!slice_eq_str(run_id, redis_conn_run_id(t->cmd)))
        return; /* ids of an earlier run of the server name other clients now */
    while (ids.len) {
        const char *blank = memchr(ids.p, ' ', ids.len);
        size_t len = blank ? (size_t)(blank - ids.p) : ids.len;
        struct slice argv[] = {SLICE_LIT("CLIENT"), SLICE_LIT("KILL"), SLICE_LIT("ID"),
                               (struct slice){ids.p, len}};
        redis_command(t->cmd, NULL, NULL, 0, ARRAY_SIZE(argv), argv);
        len = MIN(len + 1, ids.len);
        ids = (struct slice){ids.p + len, ids.len - len};
    }
}

static int read_queues(struct restore *r, struct slice text)
{
    struct transport *t = r->t;
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct json_val v;
    struct json_iter it;
    if (!a)
        return -ENOMEM;
    if (json_scan(text, &v, NULL))
        return 0;
    size_t n = json_len(v);
    r->waiting = calloc(n + 1, sizeof(*r->waiting));
    r->lists = calloc(n + 1, sizeof(*r->lists));
    if (!r->waiting || !r->lists)
        return -ENOMEM;
    json_iter_init(&it, v);
    while (json_next(&it)) {
        struct slice name;
        if (json_string(a, it.val, &name))
            continue;
        char *queue = arena_strdup(a, name);
        char *owned = arena_printf(a, "celeryc:waiting:%s:%%s", r->id);
        if (!queue || !owned)
            return -ENOMEM;
        r->waiting[r->n_queues] = key_of(t, owned, queue);
        r->lists[r->n_queues] = transport_list_key(t, queue, t->steps[0]);
        r->n_queues++;
        if (!r->waiting[r->n_queues - 1] || !r->lists[r->n_queues - 1])
            return -ENOMEM;
    }
    return 0;
}

static void on_mourned(const struct redis_reply *reply, void *arg)
{
    struct restore *r = arg;
    struct transport *t = r->t;
    if (reply && t->restore == r && is_status(reply, "strange")) {
        log_warning("transport: worker %s is dead, but its entry is of a newer celeryc; left alone",
                    r->id);
        LIST_FOREACH(it, &t->peers) {
            struct peer *p = LIST_ENTRY(it, struct peer, link);
            p->strange = p->strange || str_eq(p->id, r->id);
        }
    }
    if (!answered(r, reply))
        return;
    if (reply->n < 4 || !(r->node = slice_dup(reply->elem[0]->str)) ||
        read_queues(r, reply->elem[1]->str)) {
        restore_end(r);
        return;
    }
    kill_waiters(r, reply->elem[2]->str, reply->elem[3]->str);
    step_collect(r);
}

void restore_begin(struct transport *t, const struct peer *p)
{
    struct restore *r = calloc(1, sizeof(*r));
    if (!r)
        return;
    r->t = t;
    r->id = slice_dup(slice_str(p->id));
    r->score = slice_dup(slice_str(p->score));
    r->k_worker = key_of(t, "celeryc:worker:%s", p->id);
    r->k_claims = key_of(t, "celeryc:claims:%s", p->id);
    r->k_running = key_of(t, "celeryc:running:%s", p->id);
    r->k_lock = key_of(t, "celeryc:restoring:%s", p->id);
    if (!r->id || !r->score || !r->k_worker || !r->k_claims || !r->k_running || !r->k_lock) {
        restore_free(r);
        return;
    }
    t->restore = r;
    begin_args(r);
    args_str(t, r->k_worker);
    args_str(t, r->k_lock);
    args_str(t, LOCK_MS);
    args_eval(t, &script_mourn, on_mourned, r);
}

/* The object itself goes with the answer (or the NULL) of the call that is out. */
void restore_cancel(struct transport *t)
{
    t->restore = NULL;
}

void restore_teardown(struct transport *t)
{
    t->restore = NULL;
    while (!list_empty(&t->adoptions))
        adoption_free(LIST_ENTRY(t->adoptions.next, struct adoption, link));
    free_texts(t->foreign_queues, t->n_foreign_queues);
    t->foreign_queues = NULL;
    t->n_foreign_queues = 0;
}

/* ---- ourselves ---- */

struct unknown {
    struct transport *t;
    size_t n;
    uint64_t seqs[];
};

static void on_unknown(const struct redis_reply *reply, void *arg)
{
    struct unknown *u = arg;
    struct transport *t = u->t;
    size_t n = reply && reply->kind == REDIS_R_ARRAY ? MIN(reply->n / 3, u->n) : 0;
    t->reconciling = false;
    for (size_t i = 0; i < n && t->state != TRANSPORT_DEAD; i++) {
        const struct redis_reply *place = reply->elem[3 * i], *value = reply->elem[3 * i + 2];
        const struct adoption *a = adoption_find(t, u->seqs[i]);
        struct slice raw, tail;
        if (place->str.len == 0)
            continue;
        if (a && slice_eq_str(place->str, "r"))
            hand_orphan(t, u->seqs[i], reply->elem[3 * i + 1]->str, value->str, a->node);
        else if (stored_split(value->str, &raw, &tail) == 0)
            ops_return_field(t, u->seqs[i], tail.len, NULL, NULL);
    }
    if (n && n < u->n && t->state == TRANSPORT_UP)
        redis_conn_drop(t->cmd, "too much to sort out at once"); /* the rest after the next enter */
    free(u);
}

void reconcile(struct transport *t, const struct redis_reply *fields)
{
    struct unknown *u = calloc(1, sizeof(*u) + fields->n * sizeof(u->seqs[0]));
    if (!u)
        return;
    u->t = t;
    args_begin(t);
    args_str(t, t->me);
    args_str(t, "");
    args_str(t, t->k_claims);
    args_str(t, t->k_running);
    args_i64(t, (int64_t)RESTORE_BUDGET * 16);
    args_str(t, t->k_deaths);
    args_i64(t, TRANSPORT_MAX_DEATHS);
    for (size_t i = 0; i < fields->n; i++) {
        uint64_t seq;
        if (field_seq(t, fields->elem[i]->str, &seq) || held_find(t, seq))
            continue;
        u->seqs[u->n++] = seq;
        args_add(t, fields->elem[i]->str);
    }
    if (u->n == 0) {
        free(u);
        return;
    }
    log_info("transport: %zu claims whose answer was lost go back to their queues", u->n);
    t->reconciling = true;
    args_eval(t, &script_fetch, on_unknown, u);
}
