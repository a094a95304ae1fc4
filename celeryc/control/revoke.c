/* SPDX-License-Identifier: Apache-2.0 */
/* revoke, terminate and revoke_by_stamped_headers (celery/worker/control.py _revoke).
 *
 * An id is flagged first, so that a task of it that has not started here never does; then REVOKED is stored for it, but
 * not for a task that runs here, whose end is its own; then what runs is killed, if that was asked for. */

#include "celeryc/control/control_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"

#include <errno.h>
#include <signal.h>

#define MAX_SIGNUM 64

/* ---- signal names ---- */

static bool is_upper(struct slice s)
{
    bool letters = false;
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] >= 'a' && s.p[i] <= 'z')
            return false;
        letters |= s.p[i] >= 'A' && s.p[i] <= 'Z';
    }
    return letters;
}

static int signum_of_name(struct slice name)
{
    if (name.len > 3 && memcmp(name.p, "SIG", 3) == 0)
        name = (struct slice){name.p + 3, name.len - 3};
    for (int i = 1; i < MAX_SIGNUM; i++) {
        const char *abbreviation = sigabbrev_np(i);
        if (abbreviation && slice_eq_str(name, abbreviation))
            return i;
    }
    return 0;
}

/* celery/platforms.py Signals.signum; nothing is TERM. 0: it was answered with an error. */
static int signum_of(struct call *c)
{
    struct json_val v = json_get(c->args, "signal");
    struct slice name;
    int64_t number;
    if (!json_truth(v))
        return SIGTERM;
    if (v.kind == JSON_K_INT) {
        if (json_i64(v, &number) == 0 && number > 0 && number <= MAX_SIGNUM)
            return (int)number;
        reply_raise(c, "ValueError", "signal number out of range");
        return 0;
    }
    if (json_string(c->arena, v, &name) || !is_upper(name)) {
        reply_raise(c, "TypeError", "signal name must be uppercase string.");
        return 0;
    }
    int signum = signum_of_name(name);
    if (!signum)
        reply_raise(c, "AttributeError", "module 'signal' has no attribute '%s%.*s'",
                    name.len > 3 && memcmp(name.p, "SIG", 3) == 0 ? "" : "SIG",
                    (int)MIN(name.len, 100), name.p);
    return signum;
}

/* ---- the tasks that are meant ---- */

struct chosen {
    struct call *c;
    struct map *ids; /* id -> first task found, or a mark that it was asked for */

    struct chosen_task {
        enum control_list list;
        void *handle;
        struct slice id;
    } * tasks;

    size_t n, room;
};

static void choose(enum control_list list, const struct control_task *t, void *arg)
{
    struct chosen *x = arg;
    if (!map_get(x->ids, t->m->id))
        return;
    if (x->n == x->room) {
        size_t room = x->room ? x->room * 2 : 16;
        struct chosen_task *tasks = arena_alloc_array(x->c->arena, room, sizeof(*tasks));
        if (!tasks) {
            x->c->nomem = true;
            return;
        }
        if (x->n)
            memcpy(tasks, x->tasks, x->n * sizeof(*tasks));
        x->tasks = tasks;
        x->room = room;
    }
    x->tasks[x->n++] = (struct chosen_task){list, t->handle, t->m->id};
}

/* Kills what runs; what has not started is discarded when its turn comes. */
static const char *kill_chosen(const struct chosen *x, int signum)
{
    const struct control_host *h = x->c->p->host;
    const char *refused = NULL;
    for (size_t i = 0; i < x->n; i++) {
        const struct chosen_task *t = &x->tasks[i];
        log_info("Terminating %.*s (%d)", (int)t->id.len, t->id.p, signum);
        if (t->list == CONTROL_ACTIVE) {
            const char *why = h->terminate(t->handle, signum, h->arg);
            refused = why ? why : refused;
        }
    }
    return refused;
}

/* ---- by id ---- */

static void reply_flagged(struct call *c, size_t n, const struct slice *ids)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    CLEANUP(buf_deinit) struct buf plain = BUF_INIT;
    buf_append_str(&text, n ? "tasks {" : "tasks set()");
    for (size_t i = 0; i < n; i++) {
        if (i) {
            buf_append_str(&text, ", ");
            buf_append_str(&plain, ", ");
        }
        write_repr(&text, ids[i]);
        buf_append_slice(&plain, ids[i]);
    }
    buf_append_str(&text, n ? "} flagged as revoked" : " flagged as revoked");
    if (buf_ok(&text)) {
        c->nomem = true;
        return;
    }
    log_info("Tasks flagged as revoked: %s", plain.data ? plain.data : "");
    reply_ok(c, text.data);
}

static void reply_terminated(struct call *c, const struct chosen *x)
{
    CLEANUP(map_free) struct map *seen = map_new();
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    buf_append_str(&text, "terminate: ");
    for (size_t i = 0; seen && i < x->n; i++) {
        if (map_get(seen, x->tasks[i].id))
            continue;
        buf_appendf(&text, "%s%.*s", map_len(seen) ? ", " : "", (int)x->tasks[i].id.len,
                    x->tasks[i].id.p);
        if (map_set(seen, x->tasks[i].id, c))
            c->nomem = true;
    }
    if (!x->n)
        buf_append_str(&text, "tasks unknown");
    if (!seen || buf_ok(&text))
        c->nomem = true;
    else
        reply_ok(c, text.data);
}

/* Which of the ids may get a REVOKED record: those that do not run here. */
static void choose_records(struct call *c, const struct chosen *x, size_t n, struct slice *ids)
{
    for (size_t i = 0; i < x->n; i++)
        if (x->tasks[i].list == CONTROL_ACTIVE)
            (void)map_remove(x->ids, x->tasks[i].id);
    c->store = arena_alloc_array(c->arena, n, sizeof(*ids));
    if (!c->store) {
        c->nomem = true;
        return;
    }
    for (size_t i = 0; i < n; i++)
        if (map_get(x->ids, ids[i]))
            c->store[c->n_store++] = ids[i];
}

static void revoke_ids(struct call *c, bool terminate)
{
    CLEANUP(map_free) struct map *wanted = map_new();
    struct slice *ids;
    size_t n;
    int r = wanted ? call_names(c, "task_id", &ids, &n) : -ENOMEM;
    int64_t now_ns = clock_mono_ns();
    for (size_t i = 0; r == 0 && i < n; i++) {
        r = map_set(wanted, ids[i], c);
        if (r == 0)
            r = revoked_add(c->p->ids, ids[i], now_ns);
    }
    if (r) {
        c->nomem = true;
        return;
    }
    struct chosen x = {.c = c, .ids = wanted};
    c->p->host->each_task(choose, &x, c->p->host->arg);
    choose_records(c, &x, n, ids);
    if (c->p->host->revoked)
        c->p->host->revoked(n, ids, c->p->host->arg);
    if (!terminate) {
        reply_flagged(c, n, ids);
        return;
    }
    int signum = signum_of(c);
    if (!signum)
        return;
    const char *refused = kill_chosen(&x, signum);
    if (refused)
        reply_raise(c, "NotImplementedError", "%s", refused);
    else
        reply_terminated(c, &x);
}

static void revoke_command(struct call *c)
{
    revoke_ids(c, json_truth(json_get(c->args, "terminate")));
}

static void terminate(struct call *c)
{
    revoke_ids(c, true);
}

/* ---- by stamp ---- */

/* header NUL value, the value as json.dumps writes it. False: too long, or out of memory. */
static bool stamp_key(struct buf *dst, struct slice header, struct json_val value)
{
    buf_reset(dst);
    buf_append_slice(dst, header);
    buf_append_char(dst, '\0');
    json_write_normal(dst, value);
    return buf_ok(dst) == 0 && dst->len <= LIMIT_CONTROL_NAME;
}

typedef void (*stamp_fn)(struct slice header, struct json_val value, void *arg);

/* Calls fn for each value of a header: the elements of a list, or the one value. */
static void each_stamp(struct slice header, struct json_val value, stamp_fn fn, void *arg)
{
    if (value.kind != JSON_K_ARRAY) {
        fn(header, value, arg);
        return;
    }
    struct json_iter it;
    json_iter_init(&it, value);
    while (json_next(&it))
        fn(header, it.val, arg);
}

struct stamping {
    struct call *c;
    struct revoked *asked; /* of this command alone */
    struct buf key;
};

static void flag_stamp(struct slice header, struct json_val value, void *arg)
{
    struct stamping *s = arg;
    int64_t now_ns = clock_mono_ns();
    if (stamp_key(&s->key, header, value) &&
        (revoked_add(s->c->p->stamps, buf_slice(&s->key), now_ns) ||
         revoked_add(s->asked, buf_slice(&s->key), now_ns)))
        s->c->nomem = true;
}

static void flag_stamps(struct stamping *s, struct json_val headers)
{
    struct json_iter it;
    json_iter_init(&it, headers);
    while (json_next(&it)) {
        struct slice header;
        if (json_string(s->c->arena, it.key, &header) == 0)
            each_stamp(header, it.val, flag_stamp, s);
    }
}

/* ["k=v", ...] as an object's text. False: it was answered with Python's error. */
static bool headers_of_list(struct call *c, struct json_val list, struct buf *dst)
{
    struct json_iter it;
    size_t n = 0;
    buf_append_char(dst, '{');
    json_iter_init(&it, list);
    while (json_next(&it)) {
        struct slice s;
        if (json_string(c->arena, it.val, &s)) {
            reply_raise(c, "AttributeError", "headers are 'key=value' texts");
            return false;
        }
        const char *equals = memchr(s.p, '=', s.len);
        if (!equals) {
            reply_raise(c, "IndexError", "list index out of range");
            return false;
        }
        size_t left = (size_t)(equals - s.p);
        const char *end = memchr(equals + 1, '=', s.len - left - 1);
        size_t right = (end ? (size_t)(end - s.p) : s.len) - left - 1;
        buf_append_str(dst, n++ ? ", " : "");
        json_write_string(dst, (struct slice){s.p, left});
        buf_append_str(dst, ": ");
        json_write_string(dst, (struct slice){equals + 1, right});
    }
    buf_append_char(dst, '}');
    return true;
}

/* ---- running tasks with such stamps ---- */

struct matching {
    struct stamping *s;
    struct chosen x;
    struct revoked *found; /* the keys that matched */
    const struct control_task *t;
    enum control_list list;
    bool hit;
};

static void match_stamp(struct slice header, struct json_val value, void *arg)
{
    struct matching *m = arg;
    if (!stamp_key(&m->s->key, header, value) || !revoked_has(m->s->asked, buf_slice(&m->s->key)))
        return;
    if (revoked_add(m->found, buf_slice(&m->s->key), 0))
        m->s->c->nomem = true;
    m->hit = true;
}

static void match_task(enum control_list list, const struct control_task *t, void *arg)
{
    struct matching *m = arg;
    if (list != CONTROL_ACTIVE)
        return;
    m->hit = false;
    struct json_iter it;
    json_iter_init(&it, json_get(t->m->headers, "stamps"));
    while (it.object && json_next(&it)) {
        struct slice header;
        if (!json_is_null(it.val) && json_string(m->s->c->arena, it.key, &header) == 0)
            each_stamp(header, it.val, match_stamp, m);
    }
    if (m->hit && map_set(m->x.ids, t->m->id, m) == 0)
        choose(list, t, &m->x);
}

struct mapping {
    struct buf *dst;
    struct buf header;
    bool open;
};

/* Keys of one header stand together, as they were found header by header only within a task. */
static void write_found(struct slice key, void *arg)
{
    struct mapping *w = arg;
    size_t len = strlen(key.p);
    struct slice header = {key.p, len};
    struct json_val value;
    if (json_scan((struct slice){key.p + len + 1, key.len - len - 1}, &value, NULL))
        return;
    if (w->open && slice_eq(buf_slice(&w->header), header)) {
        buf_append_str(w->dst, ", ");
    } else {
        buf_append_str(w->dst, w->open ? "}, " : "");
        write_repr(w->dst, header);
        buf_append_str(w->dst, ": {");
        buf_reset(&w->header);
        buf_append_slice(&w->header, header);
        w->open = true;
    }
    json_write_python(w->dst, value);
}

static void reply_headers(struct call *c, struct json_val headers, const char *what)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    buf_append_str(&text, "headers ");
    json_write_python(&text, headers);
    buf_append_str(&text, what);
    if (buf_ok(&text))
        c->nomem = true;
    else
        reply_ok(c, text.data);
}

static void kill_stamped(struct stamping *s, struct json_val headers, int signum)
{
    struct call *c = s->c;
    CLEANUP(map_free) struct map *ids = map_new();
    CLEANUP(revoked_free) struct revoked *found = revoked_new(LIMIT_CONTROL_STAMPS, 0);
    if (!ids || !found) {
        c->nomem = true;
        return;
    }
    struct matching m = {.s = s, .x = {.c = c, .ids = ids}, .found = found};
    c->p->host->each_task(match_task, &m, c->p->host->arg);
    if (!revoked_len(found)) {
        reply_headers(c, headers, " were not terminated");
        return;
    }
    const char *refused = kill_chosen(&m.x, signum);
    if (refused) {
        reply_raise(c, "NotImplementedError", "%s", refused);
        return;
    }
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    struct mapping w = {.dst = &text};
    buf_append_str(&text, "headers defaultdict(<class 'set'>, {");
    revoked_each(found, write_found, &w);
    buf_deinit(&w.header);
    buf_append_str(&text, "}}) revoked");
    if (buf_ok(&text))
        c->nomem = true;
    else
        reply_ok(c, text.data);
}

static void revoke_by_stamped_headers(struct call *c)
{
    struct json_val headers = json_get(c->args, "headers");
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    int signum = signum_of(c);
    if (!signum)
        return;
    if (headers.kind == JSON_K_ARRAY) {
        if (!headers_of_list(c, headers, &text))
            return;
        if (buf_ok(&text) || json_scan(buf_slice(&text), &headers, NULL)) {
            c->nomem = true;
            return;
        }
    }
    if (headers.kind != JSON_K_OBJECT) {
        reply_raise(c, "AttributeError", "headers has no attribute 'items'");
        return;
    }
    struct stamping s = {c, revoked_new(LIMIT_CONTROL_STAMPS, 0), BUF_INIT};
    if (s.asked)
        flag_stamps(&s, headers);
    else
        c->nomem = true;
    if (!c->nomem) {
        if (json_truth(json_get(c->args, "terminate")))
            kill_stamped(&s, headers, signum);
        else
            reply_headers(c, headers, " flagged as revoked, but not terminated");
    }
    revoked_free(s.asked);
    buf_deinit(&s.key);
}

/* ---- is a task's stamp revoked ---- */

struct checking {
    const struct panel *p;
    struct buf key;
    struct slice header;
    struct json_val value; /* that hit; NONE: none did */
};

static void check_stamp(struct slice header, struct json_val value, void *arg)
{
    struct checking *x = arg;
    if (x->value.kind == JSON_K_NONE && stamp_key(&x->key, header, value) &&
        revoked_has(x->p->stamps, buf_slice(&x->key))) {
        x->header = header;
        x->value = value;
    }
}

bool stamps_revoked(const struct panel *p, const struct message *m, struct buf *log_text)
{
    if (!revoked_len(p->stamps))
        return false;
    struct json_val names = json_get(m->headers, "stamped_headers");
    struct json_val stamps = json_get(m->headers, "stamps");
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct checking x = {.p = p, .key = BUF_INIT};
    struct json_iter name, it;
    json_iter_init(&name, names.kind == JSON_K_ARRAY ? names : (struct json_val){0});
    while (a && x.value.kind == JSON_K_NONE && json_next(&name)) {
        json_iter_init(&it, stamps);
        while (it.object && x.value.kind == JSON_K_NONE && json_next(&it)) {
            struct slice header;
            if (slice_eq(it.key.raw, name.val.raw) && !json_is_null(it.val) &&
                json_string(a, it.key, &header) == 0)
                each_stamp(header, it.val, check_stamp, &x);
        }
    }
    buf_deinit(&x.key);
    if (x.value.kind == JSON_K_NONE)
        return false;
    if (log_text) {
        buf_append_str(log_text, " (revoked by header: {");
        write_repr(log_text, x.header);
        buf_append_str(log_text, ": ");
        json_write_python(log_text, x.value);
        buf_append_str(log_text, "})");
    }
    return true;
}

/* Not of Celery, whose workers keep revoked stamps until they end. */
static void forget_stamps(struct call *c)
{
    struct revoked *fresh = revoked_new(REVOKES_MAX, 0);
    if (!fresh) {
        c->nomem = true;
        return;
    }
    revoked_free(c->p->stamps);
    c->p->stamps = fresh;
    reply_ok(c, "revoked stamps forgotten");
}

const struct command revoke_commands[] = {
    {.name = "revoke", .fn = revoke_command, .required = {"task_id"}},
    {.name = "terminate", .fn = terminate, .required = {"signal", "task_id"}},
    {.name = "revoke_by_stamped_headers", .fn = revoke_by_stamped_headers, .required = {"headers"}},
    {.name = "forget_stamps", .fn = forget_stamps, .strict = true},
    {0},
};
