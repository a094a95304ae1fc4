/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Chains, groups, chords, callbacks and errbacks: what follows from the end of a task, or from applying a signature, as
 * messages to push, records to store, chord parts to count and chords to open. Pure functions, no I/O.
 *
 * Facts: wire-messages chapter 4, wire-5.7 chapters 2 and 3; matched: celery/canvas.py, celery/backends/base.py and
 * celery/app/trace.py of Celery 5.7.0. Signatures are hostile bytes. Values inside them (arguments, results, custom
 * options) are copied verbatim: big integers, NaN and unknown typed wrappers pass through untouched.
 *
 * Everything in struct canvas_effects lives in its arena or borrows from the texts that were given. */

#include "celeryc/base/arena.h"
#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"
#include "celeryc/message/message.h"

/* The signature (or something in it) cannot be applied: no task name, no options, nested too deep, too many members,
 * ... The text in err says which; the task that was to send it fails with it. Effects are then to be discarded. */
#define CANVAS_E_BAD 1
/* canvas_replace only: what Celery refuses as well, with ImproperlyConfigured. */
#define CANVAS_E_REFUSED 2

/* ---- what the worker knows ---- */

/* Options of a task that is registered here; what its signatures do not say is taken from it. Zero: unset. */
struct canvas_defaults {
    double time_limit_s, soft_time_limit_s;
    bool ignore_result;
    struct slice queue;
    int priority;
    double expires_s;
    bool errback; /* one of the new style: it is called here, not sent */
};

struct canvas_settings {
    struct slice default_queue; /* task_default_queue */
    struct slice node;          /* for extended records */
    const struct wire *wire;    /* how messages are written; NULL: JSON */
    bool inherit_priority;      /* task_inherit_parent_priority */
    int default_priority;       /* task_default_priority: of tasks that are registered here */
    bool header_errbacks;       /* task_allow_error_cb_on_chord_header */
    bool result_extended;
    int64_t now_us; /* wall clock; countdown and expires count from it */
    /* True and *ret when the task is registered here. NULL: none is. */
    bool (*lookup)(void *arg, struct slice task, struct canvas_defaults *ret);
    void *arg;
};

/* The task in whose name something is applied. id.p NULL: nobody (a client, or the master for a task that never ran). */
struct canvas_parent {
    struct slice id;
    struct slice root_id; /* p NULL: id */
    int priority;
};

/* An exception as records hold it, and the text of its traceback (p NULL: null). */
struct canvas_exception {
    struct slice type, module; /* UTF-8 */
    struct slice args;         /* JSON array text */
    struct slice traceback;
};

/* ---- effects ---- */

struct canvas_message {
    struct slice queue;
    int priority; /* 0..9 */
    struct slice raw;
};

/* A record under another id than that of the task that ended. Stored unless SUCCESS is there. */
struct canvas_record {
    struct slice task_id, record;
    bool failure; /* lives result_failure_expires */
};

/* One part of a chord, to be counted as wire-5.7 chapter 2 says. */
struct canvas_part {
    struct slice group_id, task_id;
    struct slice score; /* "0" or "+inf" */
    struct slice
        member; /* the bytes for .j: [1, "<id>", "SUCCESS", <result>] as json.dumps writes it */
    struct slice body; /* the chord's body: signature JSON, raw */
    bool failed;       /* FAILURE or REVOKED */
};

/* A chord that these messages open: DEL .c, SET .s <size>, and the saved group, before its messages are pushed. */
struct canvas_start {
    struct slice group_id;
    int64_t size;
    struct slice saved; /* {"result": ...} for celery-taskset-meta-<group id>; p NULL: none */
};

/* INCRBY .t: members that a running member added to its chord (add_to_chord). Before any part is counted. */
struct canvas_add {
    struct slice group_id;
    int64_t n;
};

/* An errback of the new style, to be called in this worker with what failed. */
struct canvas_call {
    struct slice errback; /* signature JSON */
    struct slice task_id, root_id;
    struct slice task; /* p NULL: not known */
    struct canvas_exception x;
};

struct canvas_effects {
    struct arena *arena; /* the caller's */
    size_t n_calls, cap_calls;
    struct canvas_call *calls;
    size_t n_messages, n_records, n_parts, n_starts, n_adds;
    struct canvas_message *messages;
    struct canvas_record *records;
    struct canvas_part *parts;
    struct canvas_start *starts;
    struct canvas_add *adds;
    /* Result tuples of what was sent, in the order of publication, "a, b" without the outer brackets: for the children
     * of the record. p NULL: none. */
    struct slice children;
    size_t cap_messages, cap_records, cap_parts, cap_starts, cap_adds; /* canvas's own */
};

static inline struct canvas_effects canvas_effects_init(struct arena *a)
{
    return (struct canvas_effects){.arena = a};
}

/* All functions below append to the effects and give 0, -ENOMEM or CANVAS_E_BAD with a text in e. */

/* ---- the end of a task ---- */

/* After a task returned: its callbacks, the next step of its chain, its chord part. result: JSON text of the returned
 * value as json.dumps writes it. b may be NULL when the body could not be read (no effects). */
int canvas_success(const struct canvas_settings *s, const struct message *m,
                   const struct message_body *b, struct slice result, struct canvas_effects *ret,
                   struct err *e) WARN_UNUSED;

/* After a task failed or was revoked before it ran: its chord part, FAILURE records (store: wire-messages 3.6) and
 * parts of the steps that will not run, and for a failure its errbacks. Steps behind a revoked task are walked as well
 * (Celery leaves them and their chords pending). A signature that cannot be read costs only itself: never CANVAS_E_BAD. */
int canvas_failure(const struct canvas_settings *s, const struct message *m,
                   const struct message_body *b, const struct canvas_exception *x, bool revoked,
                   bool store, struct canvas_effects *ret) WARN_UNUSED;

/* After a task that ended by Ignore: its part, and those of the steps that will not run, count as null under the state
 * IGNORED, which peers take for a value. Celery counts nothing, and the chord waits for ever. */
int canvas_ignored(const struct canvas_settings *s, const struct message *m,
                   const struct message_body *b, struct canvas_effects *ret) WARN_UNUSED;

/* ---- chords ---- */

/* All parts have come: the message(s) of the body, called with the list of results (JSON texts, in order). p is the
 * member that came last. After CANVAS_E_BAD: canvas_fail_body with "Callback error: ...". */
int canvas_fire(const struct canvas_settings *s, struct slice body, size_t n,
                const struct slice *results, const struct canvas_parent *p,
                struct canvas_effects *ret, struct err *e) WARN_UNUSED;

/* The chord has failed: errbacks of the body, its FAILURE record(s), the steps behind it, and the part that the body
 * owes to a chord around it (Celery forgets that one and the outer chord stalls). x is what is stored under the body's
 * id; cause is the exception of the member (what a group body's members get), or NULL when there is none. Never
 * CANVAS_E_BAD: a body that cannot be read has no effects.
 * called: the values under CANVAS_CALLED of the failed parts, as a JSON array (p NULL: none); these errbacks, which the
 * chords in the header have called, are not called again. */
int canvas_fail_body(const struct canvas_settings *s, struct slice body,
                     const struct canvas_exception *x, const struct canvas_exception *cause,
                     struct slice called, const struct canvas_parent *p,
                     struct canvas_effects *ret) WARN_UNUSED;

/* In the exception of a part: the errbacks that were called for it, JSON in a string. */
#define CANVAS_CALLED "celeryc_called"

/* "Dependency <id> raised ValueError('boom')" from a failed part's member text; gives the exception of the member as
 * well. Borrow from member or live in the arena. 0, -ENOMEM, -EINVAL not a failed member. */
int canvas_chord_error(struct arena *a, struct slice member,
                       struct canvas_exception *ret_chord_error,
                       struct canvas_exception *ret_cause) WARN_UNUSED;

/* ---- applying a signature ---- */

/* Applies any signature (a plain one, chain, group, chord, map, chunks) with n partial arguments in front.
 * options: raw JSON object that overrides the signature's options as Signature.apply_async does; p NULL: none.
 * ret_result (may be NULL): the result tuple of what was applied, [["<id>", <parent tuple or null>], null or [...]]. */
int canvas_apply(const struct canvas_settings *s, struct slice signature, size_t n,
                 const struct slice *args, struct slice options, const struct canvas_parent *p,
                 struct canvas_effects *ret, struct slice *ret_result, struct err *e) WARN_UNUSED;

/* Task.replace: signature takes the place of the task (its id, links, chain, group and chord). The task then ends
 * without a record, like Ignore. */
int canvas_replace(const struct canvas_settings *s, const struct message *m,
                   const struct message_body *b, struct slice signature, struct canvas_effects *ret,
                   struct err *e) WARN_UNUSED;

/* Task.add_to_chord: one more member for the chord that the task is a member of. */
int canvas_add_to_chord(const struct canvas_settings *s, const struct message *m,
                        const struct message_body *b, struct slice signature,
                        struct canvas_effects *ret, struct err *e) WARN_UNUSED;
