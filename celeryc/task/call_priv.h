/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the opaque struct celeryc_call is inside, and the helpers that its files share. */

#include "celeryc/message/record.h"
#include "celeryc/task/registry_priv.h"
#include "celeryc/task/run.h"

enum call_end {
    END_NONE, /* the function has not said yet: None */
    END_RETURN,
    END_RAISE,
    END_RETRY,
    END_IGNORE,
    END_REJECT,
    END_REPLACE,
};

/* A Python exception by name; texts in the call's arena. */
struct exception {
    struct slice type;   /* qualified name in its module */
    struct slice module; /* never empty */
    struct slice args;   /* JSON array text */
};

/* Where it was raised. */
struct place {
    const char *file;
    int line;
    const char *function;
};

struct celeryc_call {
    const struct task_registry *registry;
    const struct task_entry *task;
    const struct task_settings *settings;
    const struct task_host *host;
    struct arena *arena;
    const struct message *m;
    const struct message_body *body;
    struct slice queue;
    const char *id, *hostname;
    enum tristate ignore_result; /* effective */
    bool failed_alloc;           /* out of memory on the way */
    bool plain_record;           /* without the arguments, which are too large */

    const char *args_error; /* NULL: the last celeryc_args was fine */

    struct buf children;           /* result tuples of what was sent, without the outer brackets */
    struct canvas_effects effects; /* what goes with the end; in the arena */

    enum call_end end;
    struct buf result; /* END_RETURN: JSON */
    struct exception exception;
    struct place place;
    bool has_cause;
    struct exception cause;
    bool has_retry_max;
    int retry_max;
    double countdown;                      /* END_RETRY */
    bool requeue;                          /* END_REJECT */
    struct slice replacement;              /* END_REPLACE: signature */
    struct slice retry_args, retry_kwargs; /* END_RETRY: other ones; p NULL: the same */
    struct buf retry_options;              /* members of a JSON object */
    bool retry_has_eta;
    const char *retry_error; /* what is wrong with them */
};

/* Splits "module.Class" and finds the module of a bare name. args is JSON array text, copied. 0 or -ENOMEM. */
int exception_set(struct exception *ret_x, struct arena *a, struct slice type,
                  struct slice args) WARN_UNUSED;
/* ["text"] as the arguments. */
int exception_set_text(struct exception *ret_x, struct arena *a, const char *type,
                       struct slice text) WARN_UNUSED;
/* A traceback as Python prints one, ending in "ValueError: boom\n". */
void exception_write_traceback(struct buf *dst, const struct exception *x,
                               const struct place *place, const char *task, const char *file);

void call_write_retry_in(struct buf *dst, double countdown);

/* Ends the call with an exception of celeryc's own. */
void call_fail(struct celeryc_call *call, const char *type, struct slice text);

/* What is applied: a signature, n arguments in front of its own, options over them (p NULL: none). */
struct call_application {
    struct slice signature;
    size_t n;
    const struct slice *args;
    struct slice options;
};

/* Applies it now and lists it among the children; the result tuple lives in the arena. 0; -1: the call has failed. */
int call_apply(struct celeryc_call *call, const struct call_application *a,
               struct slice *ret_result) WARN_UNUSED;

/* Calls the task's function; one that returns an error without an end fails the call. */
void call_function(struct celeryc_call *call);

/* Calls an errback of the new style for what failed in base. Whatever it does is no failure of the caller: 0, -ENOMEM. */
int call_errback(const struct celeryc_call *base, const struct canvas_call *c) WARN_UNUSED;

/* Turns an exception that the task's autoretry_for names into a retry. */
void call_autoretry(struct celeryc_call *call);
/* The message of a retry; raw in dst or the arena. 0; -ENOMEM; CANVAS_E_BAD: arguments or options that do not fit, and
 * the call has failed. */
int call_retry_message(struct celeryc_call *call, struct buf *dst,
                       struct canvas_message *ret_m) WARN_UNUSED;
/* It goes with what the task has added to its chord. */
int call_retry_effects(struct celeryc_call *call, const struct canvas_message *m,
                       struct outcome *o) WARN_UNUSED;
/* Is x an instance of one of the classes in the list "ValueError,my.mod.Error"? "*": of any. */
bool exception_matches(const struct exception *x, const char *list);

/* Puts what follows from the end into the outcome and the children. 0; -ENOMEM; success: CANVAS_E_BAD when a callback
 * or the next step cannot be sent, which fails the call. */
int call_follow_success(struct celeryc_call *call, struct slice result,
                        struct outcome *o) WARN_UNUSED;
int call_follow_failure(struct celeryc_call *call, struct outcome *o) WARN_UNUSED;
int call_follow_ignored(struct celeryc_call *call, struct outcome *o) WARN_UNUSED;

/* The same for a task that has put a signature in its place. */
int call_replace(struct celeryc_call *call, struct outcome *o) WARN_UNUSED;
/* Calls the errbacks of call->effects, then gives their lists to the outcome and their children to the call. 0, -ENOMEM. */
int call_take_effects(struct celeryc_call *call, struct outcome *o) WARN_UNUSED;
/* The lists alone, borrowed. */
int call_lists(struct arena *a, const struct canvas_effects *fx, struct outcome *o) WARN_UNUSED;
/* Adds "tuple, tuple" to the children; p NULL: nothing. */
void call_add_children(struct celeryc_call *call, struct slice tuples);

/* A record of this call's task: status and children filled in, the rest by the caller. */
struct record call_record(const struct celeryc_call *call, const char *status,
                          struct slice children);

/* The children written so far as a JSON array. p NULL when out of memory. */
struct slice call_children(struct celeryc_call *call);
