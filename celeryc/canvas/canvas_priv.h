/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Signatures as trees that can be changed, and what the files of this folder share.
 *
 * Everything lives in the arena of the effects. Nodes are shared freely (a chord's body stands under every member of
 * its header), so that an id given to a node is seen wherever the node is written. A tree has no cycles: nodes come
 * from parsed text or are made above existing ones. */

#include "celeryc/canvas/canvas.h"

#include <stdbool.h>
#include <stddef.h>

struct sig;

enum value_kind {
    VALUE_RAW, /* JSON text, verbatim */
    VALUE_SIG,
    VALUE_LIST,
};

struct value {
    enum value_kind kind;
    struct json_val raw;
    struct sig *sig;
    struct values *list;
};

struct values {
    size_t n, cap;
    struct value *v;
};

/* What a caller puts in front of a signature's arguments and over its keyword arguments. */
struct partial {
    struct values args;     /* VALUE_RAW */
    struct json_val kwargs; /* object or NONE */
};

struct option {
    struct slice key; /* decoded */
    struct value value;
};

/* In the order in which they were set; keys are unique. */
struct options {
    size_t n, cap;
    struct option *v;
};

struct sigs {
    size_t n, cap;
    struct sig **v;
};

enum sig_type {
    SIG_TASK,
    SIG_CHAIN,
    SIG_GROUP,
    SIG_CHORD,
    SIG_CHUNKS,
};

struct sig {
    enum sig_type type;
    struct slice task;      /* decoded name */
    struct values partial;  /* arguments in front of args; VALUE_RAW */
    struct json_val args;   /* array */
    struct json_val kwargs; /* object; of a chord: what stands under its "kwargs" */
    struct json_val subtask_type;
    struct json_val
        origin; /* the object it was read from, for fields that we do not know; NONE: made here */
    struct options options;
    bool immutable;
    struct sigs
        *tasks; /* chain, group; of a chord: its header. Shared where Celery shares the list */
    struct sig *
        header; /* chord: the group that the header became when it was given ids; NULL: still a list */
    struct sig *body; /* chord; may be NULL */
};

/* What a frozen signature will result in: the ids that readers of results follow. */
struct result {
    struct slice id;
    struct result *parent;
    bool group;
    size_t n, cap;
    struct result **v; /* members of a group */
};

/* One call of a public function. */
struct canvas {
    const struct canvas_settings *s;
    const struct canvas_parent *parent; /* never NULL */
    struct canvas_effects *fx;
    struct arena *arena;
    struct err *e;
    struct buf children;
    size_t bytes; /* of what was made so far */
    int code;     /* the first failure; nothing is made after it */
};

/* Remembers the first failure; gives it. */
int canvas_fail(struct canvas *c, int code);
int canvas_bad(struct canvas *c, const char *what);

/* ---- memory; NULL after a failure, which is remembered ---- */
void *canvas_alloc(struct canvas *c, size_t size);
/* Room for one more element behind n; the array may move. False: failed. */
bool canvas_grow(struct canvas *c, void *array, size_t n, size_t *cap, size_t size);
/* The buffer's text in the arena; frees the buffer. */
struct slice canvas_keep(struct canvas *c, struct buf *b);
/* A JSON string in the arena. */
struct json_val canvas_text(struct canvas *c, struct slice utf8);
struct slice canvas_uuid(struct canvas *c);

/* ---- values and options ---- */
static inline struct value value_raw(struct json_val v)
{
    return (struct value){.kind = VALUE_RAW, .raw = v};
}

static inline struct value value_sig(struct sig *s)
{
    return (struct value){.kind = VALUE_SIG, .sig = s};
}

#define VALUE_NULL  value_raw((struct json_val){JSON_K_NULL, SLICE_LIT("null")})
#define VALUE_TRUE  value_raw((struct json_val){JSON_K_TRUE, SLICE_LIT("true")})
#define VALUE_FALSE value_raw((struct json_val){JSON_K_FALSE, SLICE_LIT("false")})

static inline bool value_is_null(const struct value *v)
{
    return !v || (v->kind == VALUE_RAW && json_is_null(v->raw));
}

void values_add(struct canvas *c, struct values *l, struct value v);
/* Python's maybe_list: the elements of a list, a scalar as one element, nothing for null. */
struct values values_of(struct canvas *c, const struct value *v);
bool value_equal(struct canvas *c, const struct value *a, const struct value *b);

struct value *option_get(const struct options *o, const char *key);
struct value *option_find(const struct options *o, struct slice key);
void option_set(struct canvas *c, struct options *o, const char *key, struct value v);
void option_set_key(struct canvas *c, struct options *o, struct slice key, struct value v);
void option_remove(struct options *o, const char *key);
/* The value, removed; false when there was none. */
bool option_pop(struct options *o, const char *key, struct value *ret_v);
/* A string option that is not empty; p NULL otherwise. */
struct slice option_text(struct canvas *c, const struct options *o, const char *key);
void option_set_text(struct canvas *c, struct options *o, const char *key, struct slice utf8);
/* A copy that can be changed on its own. */
struct options options_copy(struct canvas *c, const struct options *o);
/* Signature._merge: call over own, but own group_id, stamped_headers and stamps stay. */
struct options options_merge(struct canvas *c, const struct options *own,
                             const struct options *call);
/* Every key of from over to. */
void options_update(struct canvas *c, struct options *to, const struct options *from);
void options_drop_nulls(struct options *o);
/* Adds to a list option (link, link_error) unless an equal one is in it. */
void option_append(struct canvas *c, struct options *o, const char *key, struct value v);
void option_extend(struct canvas *c, struct options *o, const char *key, struct value v);
int options_read(struct canvas *c, struct json_val object, struct options *ret_o);

/* ---- signatures ---- */
int sig_read(struct canvas *c, struct json_val v, struct sig **ret_s);
int sig_read_text(struct canvas *c, struct slice text, struct sig **ret_s);
/* The signature of a value, read when it is still text. */
int sig_of(struct canvas *c, const struct value *v, struct sig **ret_s);
struct sig *sig_new(struct canvas *c, enum sig_type type, const char *task);
void sigs_add(struct canvas *c, struct sigs *l, struct sig *s);
struct sigs *sigs_new(struct canvas *c);
void sig_write(struct canvas *c, struct buf *dst, const struct sig *s);
void sig_write_args(struct canvas *c, struct buf *dst, const struct sig *s);
void value_write(struct canvas *c, struct buf *dst, const struct value *v);
/* Signature.link, link_error. */
void sig_link(struct canvas *c, struct sig *s, struct value callback);
void sig_link_error(struct canvas *c, struct sig *s, struct value errback);
/* Arguments of the caller's, unless the signature is immutable. partial may be NULL. */
void sig_prepend(struct canvas *c, struct sig *s, const struct partial *partial);

/* Python's left | right. Takes both apart. NULL: failed. */
struct sig *sig_pipe(struct canvas *c, struct sig *left, struct sig *right);

static inline bool sig_is_empty_group(const struct sig *s)
{
    return s->type == SIG_GROUP && s->tasks->n == 0;
}

static inline bool sig_is_empty_chain(const struct sig *s)
{
    return s->type == SIG_CHAIN && s->tasks->n == 0;
}

/* A copy whose parts can get ids without the original's getting them, as far as Celery's clone goes: steps of a chain,
 * header and body of a chord are copied, the members of a group are shared until they are frozen. The header of a
 * chord becomes a list again, so that the next freeze gives the chord a new group id. NULL: failed. */
struct sig *sig_clone(struct canvas *c, const struct sig *s);
struct sigs *sigs_copy(struct canvas *c, const struct sigs *l);

/* ---- freezing: ids for everything in a signature ---- */
struct freeze {
    struct slice id, group_id, root_id, parent_id; /* p NULL: not given */
    const struct value *chord;                     /* NULL: not given */
    struct json_val group_index;                   /* NONE: not given */
};

int sig_freeze(struct canvas *c, struct sig *s, const struct freeze *f, struct result **ret_r);
int group_freeze_members(struct canvas *c, struct sig *s, const struct freeze *f,
                         struct result **ret_r);
struct json_val canvas_index(struct canvas *c, size_t i);

struct result *result_new(struct canvas *c, struct slice id, bool group);
void result_add(struct canvas *c, struct result *r, struct result *member);
void result_write(struct buf *dst, const struct result *r);

/* A chain's steps, last first, ready to be sent; also used to give ids. */
struct steps {
    const struct partial *partial; /* for the first step; NULL: none */
    struct slice root_id, last_id, group_id;
    const struct value *chord;
    struct json_val group_index;
    const struct value *link_error;
    bool run; /* false: only ids are wanted, the chain stays as it is written */
};

int chain_prepare(struct canvas *c, const struct sigs *tasks, const struct steps *o,
                  struct sigs *ret_tasks, struct result **ret_first);
/* Splits chords with a task-led chain as body into the chord and further steps, in place. */
int chain_unroll_chords(struct canvas *c, struct sig *chain);
void chord_strip_links(struct sig *s);

/* ---- applying ---- */
/* options: the call's, not changed. ret_r may be NULL. */
int sig_apply(struct canvas *c, struct sig *s, const struct partial *partial,
              const struct options *options, struct result **ret_r);
int chain_apply(struct canvas *c, struct sig *s, const struct partial *partial,
                const struct options *options, struct result **ret_r);
int group_apply(struct canvas *c, struct sig *s, const struct partial *partial,
                const struct options *options, struct result **ret_r);
int chord_apply(struct canvas *c, struct sig *s, const struct partial *partial,
                const struct options *options, struct result **ret_r);
/* A plain task; options are merged already. */
int task_send(struct canvas *c, const struct sig *s, const struct partial *partial,
              const struct options *options, struct result **ret_r);

/* ---- effects ---- */
void effect_message(struct canvas *c, struct slice queue, int priority, struct slice raw);
void effect_child(struct canvas *c, const struct result *r);
void effect_record(struct canvas *c, struct slice id, struct slice record, bool failure);
void effect_part(struct canvas *c, struct canvas_part part);
void effect_start(struct canvas *c, struct canvas_start start);
void effect_add(struct canvas *c, struct slice group_id);
void effect_call(struct canvas *c, const struct canvas_call *call);
struct canvas canvas_begin(const struct canvas_settings *s, const struct canvas_parent *p,
                           struct canvas_effects *fx, struct err *e);
/* Puts the children where the caller finds them. */
int canvas_end(struct canvas *c);

/* One thing at a time: what goes wrong with a signature is undone. */
struct canvas_mark {
    struct canvas_effects fx;
    size_t children, bytes;
};
struct canvas_mark canvas_mark(const struct canvas *c);
/* Takes back everything since the mark when that was bad. True: it was. */
bool canvas_undo(struct canvas *c, const struct canvas_mark *m);

/* ---- what the ends share ---- */
struct canvas_parent canvas_parent_of(const struct message *m);
struct partial canvas_one_argument(struct canvas *c, struct json_val v);
/* The score of a group_index as Redis is given it. */
struct slice canvas_score(struct json_val index);
/* [1, "<id>", "<state>", <result>] */
struct slice canvas_member(struct canvas *c, struct slice id, const char *state,
                           struct slice result);
/* The part of the task that ended, if it is a member of a chord. */
void canvas_own_part(struct canvas *c, const struct message *m, const struct message_body *b,
                     const char *state, struct slice result);
/* The text under a key; p NULL: there is none, or it is empty. */
struct slice canvas_text_of(struct canvas *c, struct json_val object, const char *key);
/* subtask_type */
bool canvas_is_type(struct json_val sig, const char *type);

/* ---- errbacks ---- */
/* What failed, as its errbacks are told. */
struct canvas_failed {
    struct slice id, root_id, task; /* task may have p NULL */
    const struct canvas_exception *x;
};

void canvas_call_errbacks(struct canvas *c, const struct values *errbacks,
                          const struct canvas_failed *f);
/* Those of the body of a chord that failed with x: of each member when it is a group. Not those in `called`; what is
 * called here is added to it. */
void canvas_call_body_errbacks(struct canvas *c, struct json_val body,
                               const struct canvas_exception *x, struct values *called);
/* The exception (JSON) of a part with what was called in it; and back, from what canvas_fail_body is given. */
struct slice canvas_mark_called(struct canvas *c, struct slice exception,
                                const struct values *called);
struct values canvas_read_called(struct canvas *c, struct slice called);
