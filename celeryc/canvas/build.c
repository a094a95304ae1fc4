/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures as <celeryc/client.h> builds them. A signature is its text: each change reads it into a tree, changes the
 * tree as Celery's methods do, and writes it again, so that what is built is always what will be sent.
 *
 * The first error of a part becomes the error of the whole and is told by whoever sends it. */

#include "celeryc/canvas/canvas_priv.h"

#include <celeryc/client.h>

#include <errno.h>

struct celeryc_sig {
    struct buf json;
    char *error; /* NULL: fine; json is then valid */
};

/* ---- memory ---- */

static struct celeryc_sig *sig_alloc(void)
{
    return calloc(1, sizeof(struct celeryc_sig));
}

void celeryc_sig_free(struct celeryc_sig *s)
{
    if (!s)
        return;
    buf_deinit(&s->json);
    free(s->error);
    free(s);
}

static struct celeryc_sig *sig_free(struct celeryc_sig *s)
{
    celeryc_sig_free(s);
    return NULL;
}

DEFINE_CLEANUP(struct celeryc_sig, sig_free)

/* Out of memory for the text of an error leaves a signature that says only that. */
static void set_error(struct celeryc_sig *s, const char *text)
{
    static char no_memory[] = "out of memory";
    char *copy;

    if (s->error)
        return;
    copy = slice_dup(slice_str(text));
    s->error = copy ? copy : slice_dup(slice_str(no_memory));
    buf_deinit(&s->json);
}

struct celeryc_sig *celeryc_sig_copy(const struct celeryc_sig *s)
{
    CLEANUP(sig_free) struct celeryc_sig *copy = s ? sig_alloc() : NULL;

    if (!copy)
        return NULL;
    if (s->error)
        copy->error = slice_dup(slice_str(s->error));
    else
        buf_append_slice(&copy->json, buf_slice(&s->json));
    if (copy->json.failed || (s->error && !copy->error))
        return NULL;
    return STEAL(copy);
}

const char *celeryc_sig_error(const struct celeryc_sig *s)
{
    if (!s)
        return "out of memory";
    return s->error ? s->error : s->json.len ? NULL : "out of memory";
}

const char *celeryc_sig_json(struct celeryc_sig *s, size_t *ret_len)
{
    if (ret_len)
        *ret_len = 0;
    if (!s || s->error || !s->json.len)
        return NULL;
    if (ret_len)
        *ret_len = s->json.len;
    return s->json.data;
}

/* ---- reading, changing, writing ---- */

/* What one call works on: a canvas on an arena of its own, used for nothing but trees. */
struct work {
    struct arena *arena;
    struct canvas_effects fx;
    struct canvas canvas;
    struct err e;
};

static const struct canvas_settings no_settings = {.now_us = 0};

static int work_init(struct work *w)
{
    *w = (struct work){.arena = arena_new(), .e = ERR_INIT};
    w->fx = canvas_effects_init(w->arena);
    w->canvas = canvas_begin(&no_settings, NULL, &w->fx, &w->e);
    return w->arena ? 0 : -ENOMEM;
}

static void work_deinit(struct work *w)
{
    arena_free(w->arena);
}

DEFINE_CLEANUP_VALUE(struct work, work_deinit)

/* The tree as the new text of s, or the error. */
static void put(struct work *w, struct celeryc_sig *s, const struct sig *tree)
{
    struct buf b = BUF_INIT;

    if (tree && w->canvas.code == 0)
        sig_write(&w->canvas, &b, tree);
    if (b.failed || !tree)
        (void)canvas_fail(&w->canvas, -ENOMEM);
    if (w->canvas.code) {
        set_error(s, err_text(&w->e, w->canvas.code));
        buf_deinit(&b);
        return;
    }
    buf_deinit(&s->json);
    s->json = b;
}

static bool is_immutable(const struct celeryc_sig *s)
{
    struct json_val v;

    return json_scan(buf_slice(&s->json), &v, NULL) == 0 &&
           json_get(v, "immutable").kind == JSON_K_TRUE;
}

static struct sig *get(struct work *w, const struct celeryc_sig *s)
{
    struct sig *tree = NULL;

    if (s->error || !s->json.len)
        (void)canvas_fail(&w->canvas, err_set(&w->e, CANVAS_E_BAD, "%s", celeryc_sig_error(s)));
    else if (sig_read_text(&w->canvas, buf_slice(&s->json), &tree))
        return NULL;
    if (tree && tree->type == SIG_CHAIN) /* Celery's reading forgets it, its methods do not */
        tree->immutable = is_immutable(s);
    return tree;
}

typedef void (*change_fn)(struct canvas *c, struct sig *tree, void *arg);

static struct celeryc_sig *change(struct celeryc_sig *s, change_fn fn, void *arg)
{
    CLEANUP(work_deinit) struct work w = {0};

    if (!s || s->error)
        return s;
    if (work_init(&w)) {
        set_error(s, "out of memory");
        return s;
    }
    struct sig *tree = get(&w, s);
    if (tree)
        fn(&w.canvas, tree, arg);
    put(&w, s, tree);
    return s;
}

/* A JSON text in the arena of c; false: it is not, which is remembered with the name of what it should be. */
static bool scan(struct canvas *c, const char *text, const char *what, struct json_val *ret_v)
{
    struct err e = ERR_INIT;
    int code = json_scan(slice_str(text ? text : "null"), ret_v, &e);

    if (code == 0)
        return true;
    if (code != -ENOMEM)
        code = err_set(c->e, CANVAS_E_BAD, "%s: %s", what, err_text(&e, code));
    (void)canvas_fail(c, code);
    return false;
}

/* Written into a new signature; parts are freed by the caller. */
static struct celeryc_sig *finish(struct work *w, const struct sig *tree)
{
    struct celeryc_sig *s = sig_alloc();

    if (s)
        put(w, s, tree);
    return s;
}

/* ---- one task ---- */

struct celeryc_sig *celeryc_signature(const char *name, const char *args, const char *kwargs)
{
    CLEANUP(work_deinit) struct work w = {0};
    struct json_val a = {0}, k = {0};

    if (work_init(&w))
        return NULL;
    struct sig *tree = sig_new(&w.canvas, SIG_TASK, name ? name : "");
    bool fine = tree && scan(&w.canvas, args, "args", &a) && scan(&w.canvas, kwargs, "kwargs", &k);
    if (fine && tree->task.len == 0)
        (void)canvas_bad(&w.canvas, "no task name");
    if (fine && a.kind == JSON_K_ARRAY)
        tree->args = a;
    else if (fine && !json_is_null(a))
        (void)canvas_bad(&w.canvas, "args are no JSON array");
    if (fine && k.kind == JSON_K_OBJECT)
        tree->kwargs = k;
    else if (fine && !json_is_null(k))
        (void)canvas_bad(&w.canvas, "kwargs are no JSON object");
    return finish(&w, tree);
}

struct celeryc_sig *celeryc_sig_from_json(const char *json, size_t len)
{
    CLEANUP(work_deinit) struct work w = {0};
    struct sig *tree = NULL;

    if (work_init(&w))
        return NULL;
    (void)sig_read_text(&w.canvas, (struct slice){json, json ? len : 0}, &tree);
    return finish(&w, tree);
}

/* ---- of several ---- */

/* Frees what a constructor took over. */
static void free_all(size_t n, struct celeryc_sig *const *v)
{
    for (size_t i = 0; i < n; i++)
        celeryc_sig_free(v[i]);
}

static bool all_there(size_t n, struct celeryc_sig *const *v)
{
    for (size_t i = 0; i < n; i++)
        if (!v[i])
            return false;
    return true;
}

struct celeryc_sig *celeryc_chain(size_t n, struct celeryc_sig *const *steps)
{
    CLEANUP(work_deinit) struct work w = {0};
    struct celeryc_sig *made = NULL;

    if (work_init(&w) == 0 && all_there(n, steps)) {
        struct sig *tree = sig_new(&w.canvas, SIG_CHAIN, "celery.chain");
        for (size_t i = 0; i < n && tree; i++) {
            struct sig *step = get(&w, steps[i]);
            bool lone = n == 1 && step && step->type == SIG_GROUP; /* a chain all the same */
            if (lone)
                sigs_add(&w.canvas, tree->tasks, step);
            else
                tree = sig_pipe(&w.canvas, tree, step);
        }
        made = finish(&w, tree);
    }
    free_all(n, steps);
    return made;
}

struct celeryc_sig *celeryc_group(size_t n, struct celeryc_sig *const *members)
{
    CLEANUP(work_deinit) struct work w = {0};
    struct celeryc_sig *made = NULL;

    if (work_init(&w) == 0 && all_there(n, members)) {
        struct sig *tree = sig_new(&w.canvas, SIG_GROUP, "celery.group");
        for (size_t i = 0; i < n && tree; i++) {
            struct sig *member = get(&w, members[i]);
            if (member && n == 1 && member->type == SIG_GROUP)
                tree->tasks = member->tasks;
            else if (member)
                sigs_add(&w.canvas, tree->tasks, member);
        }
        made = finish(&w, tree);
    }
    free_all(n, members);
    return made;
}

struct celeryc_sig *celeryc_chord(struct celeryc_sig *header, struct celeryc_sig *body)
{
    CLEANUP(work_deinit) struct work w = {0};
    struct celeryc_sig *const parts[] = {header, body};
    struct celeryc_sig *made = NULL;

    if (work_init(&w) == 0 && all_there(2, parts)) {
        struct sig *tree = sig_new(&w.canvas, SIG_CHORD, "celery.chord");
        struct sig *members = get(&w, header);
        if (tree && members && members->type == SIG_GROUP)
            tree->tasks = members->tasks;
        else if (tree && members)
            sigs_add(&w.canvas, tree->tasks, members);
        if (tree)
            tree->body = get(&w, body);
        made = finish(&w, tree);
    }
    free_all(2, parts);
    return made;
}

/* celery.map and its like: the task and its elements are keyword arguments of one message. */
static struct celeryc_sig *apply_each(struct celeryc_sig *task, const char *name, const char *it,
                                      int n)
{
    CLEANUP(work_deinit) struct work w = {0};
    struct celeryc_sig *made = NULL;
    struct json_val list;

    if (work_init(&w) == 0 && task) {
        struct sig *tree = sig_new(&w.canvas, SIG_TASK, name), *each = get(&w, task);
        struct buf b = BUF_INIT;
        if (each && scan(&w.canvas, it, "it", &list) && list.kind != JSON_K_ARRAY)
            (void)canvas_bad(&w.canvas, "it is no JSON array");
        if (tree && each && w.canvas.code == 0) {
            buf_append_str(&b, "{\"task\": ");
            sig_write(&w.canvas, &b, each);
            buf_append_str(&b, ", \"it\": ");
            json_write_normal(&b, list);
            if (n > 0)
                buf_appendf(&b, ", \"n\": %d", n);
            buf_append_char(&b, '}');
            tree->kwargs = (struct json_val){JSON_K_OBJECT, canvas_keep(&w.canvas, &b)};
            tree->immutable = true;
            if (n > 0)
                tree->subtask_type = (struct json_val){JSON_K_STRING, SLICE_LIT("\"chunks\"")};
        }
        buf_deinit(&b);
        made = finish(&w, tree);
    }
    celeryc_sig_free(task);
    return made;
}

struct celeryc_sig *celeryc_map(struct celeryc_sig *task, const char *it)
{
    return apply_each(task, "celery.map", it, 0);
}

struct celeryc_sig *celeryc_starmap(struct celeryc_sig *task, const char *it)
{
    return apply_each(task, "celery.starmap", it, 0);
}

struct celeryc_sig *celeryc_chunks(struct celeryc_sig *task, const char *it, int n)
{
    struct celeryc_sig *s = apply_each(task, "celery.chunks", it, n > 0 ? n : 1);

    if (s && n < 1)
        set_error(s, "signature: chunks of less than one element");
    return s;
}

/* ---- changes ---- */

/* A chain is marked itself; of a group and of a chord's header, the members. */
static void make_immutable(struct canvas *c, struct sig *s, void *arg)
{
    if (s->type != SIG_GROUP && s->type != SIG_CHORD) {
        s->immutable = true;
        return;
    }
    for (size_t i = 0; i < s->tasks->n; i++)
        make_immutable(c, s->tasks->v[i], arg);
}

struct celeryc_sig *celeryc_sig_immutable(struct celeryc_sig *s)
{
    return change(s, make_immutable, NULL);
}

struct pair {
    const char *name, *value;
};

static void put_option(struct canvas *c, struct sig *s, void *arg)
{
    const struct pair *p = arg;
    struct json_val v;

    if (!p->name || !*p->name)
        (void)canvas_bad(c, "an option without a name");
    else if (scan(c, p->value, p->name, &v))
        option_set(c, &s->options, p->name, value_raw(v));
}

struct celeryc_sig *celeryc_sig_set(struct celeryc_sig *s, const char *option, const char *value)
{
    return change(s, put_option, &(struct pair){option, value});
}

struct link {
    const struct celeryc_sig *other;
    void (*fn)(struct canvas *c, struct sig *s, struct value callback);
};

static void put_link(struct canvas *c, struct sig *s, void *arg)
{
    const struct link *l = arg;
    struct sig *other = NULL;

    if (l->other->error || !l->other->json.len)
        (void)canvas_fail(c, err_set(c->e, CANVAS_E_BAD, "%s", celeryc_sig_error(l->other)));
    else if (sig_read_text(c, buf_slice(&l->other->json), &other) == 0)
        l->fn(c, s, value_sig(other));
}

static struct celeryc_sig *link_to(struct celeryc_sig *s, struct celeryc_sig *other,
                                   void (*fn)(struct canvas *c, struct sig *s,
                                              struct value callback))
{
    if (s && !other)
        set_error(s, "out of memory");
    s = other ? change(s, put_link, &(struct link){other, fn}) : s;
    celeryc_sig_free(other);
    return s;
}

struct celeryc_sig *celeryc_sig_link(struct celeryc_sig *s, struct celeryc_sig *callback)
{
    return link_to(s, callback, sig_link);
}

struct celeryc_sig *celeryc_sig_link_error(struct celeryc_sig *s, struct celeryc_sig *errback)
{
    return link_to(s, errback, sig_link_error);
}

/* ---- stamps ---- */

struct stamp {
    const char *name;
    struct json_val value;
};

static void put_stamp(struct canvas *c, struct sig *s, const struct stamp *stamp);

/* Callbacks and errbacks are stamped like what they hang on. */
static void stamp_links(struct canvas *c, struct sig *s, const struct stamp *stamp)
{
    static const char *const keys[] = {"link", "link_error"};

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        struct values links = values_of(c, option_get(&s->options, keys[i]));
        struct values *stamped = canvas_alloc(c, sizeof(*stamped));
        if (links.n == 0 || !stamped)
            continue;
        for (size_t k = 0; k < links.n; k++) {
            struct sig *one;
            if (sig_of(c, &links.v[k], &one))
                return;
            put_stamp(c, one, stamp);
            values_add(c, stamped, value_sig(one));
        }
        option_set(c, &s->options, keys[i], (struct value){.kind = VALUE_LIST, .list = stamped});
    }
}

static void put_stamp(struct canvas *c, struct sig *s, const struct stamp *stamp)
{
    stamp_links(c, s, stamp);
    for (size_t i = 0; s->tasks && i < s->tasks->n; i++)
        put_stamp(c, s->tasks->v[i], stamp);
    if (s->tasks)
        return;
    option_set(c, &s->options, stamp->name, value_raw(stamp->value));
    option_append(c, &s->options, "stamped_headers",
                  value_raw(canvas_text(c, slice_str(stamp->name))));
}

static void begin_stamp(struct canvas *c, struct sig *s, void *arg)
{
    const struct pair *p = arg;
    struct stamp stamp = {.name = p->name};

    if (!p->name || !*p->name)
        (void)canvas_bad(c, "a stamp without a name");
    else if (scan(c, p->value, p->name, &stamp.value))
        put_stamp(c, s, &stamp);
}

struct celeryc_sig *celeryc_sig_stamp(struct celeryc_sig *s, const char *name, const char *value)
{
    return change(s, begin_stamp, &(struct pair){name, value});
}
