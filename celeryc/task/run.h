/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Running one message in a child: decode, call the function, turn its end into records and messages. */

#include "celeryc/base/arena.h"
#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"
#include "celeryc/canvas/canvas.h"
#include "celeryc/message/message.h"
#include "celeryc/task/registry.h"

#include <stdatomic.h>

/* What the worker's settings say about results and messages; travels to the children once. */
struct task_settings {
    const char *node;          /* w1@host */
    const char *default_queue; /* task_default_queue */
    bool result_extended;
    bool ignore_result; /* task_ignore_result */
    bool store_errors_even_if_ignored;
    bool track_started;
    bool inherit_parent_priority;       /* task_inherit_parent_priority */
    int default_priority;               /* task_default_priority */
    bool header_errbacks;               /* task_allow_error_cb_on_chord_header */
    double time_limit, soft_time_limit; /* of tasks that have none of their own, seconds; 0: none */
    /* How messages are read and written: what to make it of, and what was made of it in this process. */
    struct wire_options wire_options;
    const struct wire *wire;
};

enum outcome_kind {
    OUTCOME_SUCCESS = 1,
    OUTCOME_FAILURE,
    OUTCOME_RETRY,
    OUTCOME_IGNORE,
    OUTCOME_REJECT, /* without requeue it has a FAILURE record, as in Celery 5.7 */
};

struct outcome_message {
    struct slice queue;
    int priority;
    struct slice raw;
};

/* What a child tells the master at the end of a job. Slices borrow the frame (decode) or the caller (encode). */
struct outcome {
    enum outcome_kind kind;
    bool requeue;        /* OUTCOME_REJECT */
    bool store;          /* the rules of wire-messages 3.6, already applied */
    struct slice record; /* the whole result record, JSON text; p NULL when !store */
    struct slice repr;   /* of the result or the exception; RETRY: "Retry in 1s: ValueError('x')" */
    struct slice traceback; /* text, for the log of failures */
    double countdown;       /* OUTCOME_RETRY, for the log line */
    int64_t runtime_ns;
    /* What follows from the end, all applied in the finish script: starts and adds first, then parts and records, then
     * the messages (retry, callbacks, next steps, errbacks). */
    size_t n_messages, n_records, n_parts, n_starts, n_adds;
    struct outcome_message *messages;
    struct canvas_record *records;
    struct canvas_part *parts;
    struct canvas_start *starts;
    struct canvas_add *adds;
};

int outcome_encode(const struct outcome *o, struct buf *dst) WARN_UNUSED;
/* The lists are allocated in the arena. */
int outcome_decode(struct arena *a, struct slice bytes, struct outcome *ret_o,
                   struct err *e) WARN_UNUSED;

/* What a running task may do towards the master; implemented by the child's frame writer (or a test). */
struct task_host {
    /* A state of the task's own: record text for the task's result key. Empty: see task_call_advanced. */
    void (*state)(void *arg, struct slice record);
    /* A message to publish now. */
    void (*send)(void *arg, struct slice queue, int priority, struct slice raw);
    /* The lists of o, to be applied now, in their order. 0, -ENOMEM, -E2BIG larger than a frame: nothing is. */
    int (*apply)(void *arg, const struct outcome *o);
    /* Set from shared memory by the master: soft limit, revoke, drain. */
    const _Atomic uint32_t *stop;
    void *arg;
};

/* What the task has done so far stays done whatever happens to this process: earlier deaths of its message do not count
 * any more. Needed once in a run, and only by a message that was delivered before. */
void task_call_advanced(struct celeryc_call *call);

/* Runs raw (an envelope that message_parse accepts) and appends the encoded outcome to dst. Anything that is wrong
 * with the body, the arguments or the task becomes a FAILURE outcome. The arena is reset first and holds what the run
 * needs; a caller with many runs keeps one for each thread. 0 or -ENOMEM. */
int task_run(const struct task_registry *r, const struct task_settings *s,
             const struct task_host *h, struct arena *a, struct slice queue, struct slice raw,
             struct buf *dst) WARN_UNUSED;

/* For a task of ours that watches over a chord: with the task's end its body is sent, called with the list of results
 * (JSON), or the chord fails with ChordError(text). body: signature JSON. What is given must live as long as the call.
 * 0, -ENOMEM. */
int task_chord_fire(struct celeryc_call *call, struct slice body, struct slice results) WARN_UNUSED;
int task_chord_fail(struct celeryc_call *call, struct slice body, const char *text) WARN_UNUSED;
/* The repr of what the call has raised; NULL: nothing so far. */
const char *task_raised(struct celeryc_call *call);

/* The text of a job that calls an errback of the new style, and running it: a job without a queue. The outcome says
 * nothing. 0, -ENOMEM, -EINVAL not such a text. */
int task_errback_write(struct buf *dst, const struct canvas_call *c) WARN_UNUSED;
int task_run_errback(const struct task_registry *r, const struct task_settings *s,
                     const struct task_host *h, struct arena *a, struct slice text,
                     struct buf *dst) WARN_UNUSED;

/* The records that the master writes for a task it did not run (unknown, lost, expired, timed out): exception by
 * type, module and JSON args; status "FAILURE" or "REVOKED". m may be only partly parsed. 0, -ENOMEM. */
int task_write_verdict(struct buf *dst, const struct task_settings *s, const struct message *m,
                       const char *status, const char *type, const char *module,
                       struct slice args_json) WARN_UNUSED;
/* What follows from such a verdict besides its record: chord part, failed steps, errbacks. Reads the body of m; one that
 * cannot be read has no consequences. args: JSON array text. 0, -ENOMEM. */
int task_verdict_effects(const struct task_registry *r, const struct task_settings *s,
                         const struct message *m, bool revoked, const char *type,
                         const char *module, struct slice args,
                         struct canvas_effects *ret) WARN_UNUSED;

/* The retry of a task that was lost with its child or node (retry_on_worker_lost; Celery 5.7, worker/request.py). */
struct task_lost_retry {
    struct buf message;
    struct buf record; /* empty: not to be stored */
    struct buf text;   /* for the log */
};

/* args: of the WorkerLostError, JSON array text. *ret is empty before. 0; -ENOMEM; MESSAGE_E_POISON: the body cannot be
 * read, so there is nothing to retry. */
int task_write_lost_retry(struct arena *a, const struct task_settings *s, const struct task_info *t,
                          const struct message *m, struct slice args,
                          struct task_lost_retry *ret) WARN_UNUSED;
void task_lost_retry_deinit(struct task_lost_retry *r);
DEFINE_CLEANUP_VALUE(struct task_lost_retry, task_lost_retry_deinit)

/* Settings for canvas_* in a process that has the task table; both are borrowed. */
struct canvas_settings task_canvas_settings(const struct task_registry *r,
                                            const struct task_settings *s);

/* The effective ignore_result: the message's word, else the task's and the worker's. t may be NULL. */
enum tristate task_ignores_result(const struct task_settings *s, const struct task_info *t,
                                  const struct message *m);
/* Is a FAILURE/REVOKED to be stored for m (wire-messages 3.6)? t may be NULL (unknown task). */
bool task_stores_error(const struct task_settings *s, const struct task_info *t,
                       const struct message *m);
