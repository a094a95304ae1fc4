/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Write a Celery task in C.
 *
 *     #include <celeryc/task.h>
 *
 *     static int add(struct celeryc_call *call)
 *     {
 *         int64_t a, b;
 *         if (celeryc_args(call, "ii", &a, &b))
 *             return celeryc_raise(call, "TypeError", "add(a: int, b: int)");
 *         return celeryc_return_int(call, a + b);
 *     }
 *     CELERYC_TASK("tasks.add", add, .acks_late = true, .max_retries = 3)
 *
 * Build:  cc -shared -fPIC $(pkg-config --cflags celeryc) tasks.c -o tasks.so
 * Run:    celeryc worker -A ./tasks.so
 *
 * A task function runs in a child process, on one of its threads. It ends by returning what one of celeryc_return_*,
 * celeryc_raise, celeryc_retry, celeryc_ignore or celeryc_reject gave it; returning 0 without one of them means None.
 * Pointers that a call hands out live until the function returns. Nothing here is safe to use from a second thread.
 *
 * ABI 1: first version. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CELERYC_ABI 1
#define CELERYC_API __attribute__((visibility("default")))

struct celeryc_call;

typedef int (*celeryc_task_fn)(struct celeryc_call *call);

/* The failure that an errback is called for. Strings live until the errback returns. */
struct celeryc_failure {
    const char *task_id,
        *task; /* of the task, or of the chord body, that failed; task NULL: not known */
    const char *exc_type, *exc_module, *exc_args; /* exc_args: JSON array */
    const char *traceback;                        /* NULL: none */
};

/* A "new style" errback: Python's (request, exc, traceback). Runs at once in the worker that saw the failure, has no
 * result, and what it raises is logged. celeryc_args gives the arguments stored in its signature. */
typedef int (*celeryc_errback_fn)(struct celeryc_call *call, const struct celeryc_failure *f);

/* Options: the attributes of a Celery task that make sense here, by their Celery names. Zero means Celery's default. */
struct celeryc_task {
    const char *name;
    celeryc_task_fn run;
    const char
        *arg_names; /* "a,b": lets callers pass arguments by keyword; NULL: positional only */
    bool acks_late; /* ack after the run: run again when the worker dies */
    bool no_acks_on_failure; /* acks_on_failure_or_timeout = False */
    bool
        reject_on_worker_lost; /* with acks_late: requeue when the child dies, instead of FAILURE */
    bool ignore_result;
    bool store_errors_even_if_ignored;
    bool track_started;
    int max_retries; /* 0: Celery's default 3; CELERYC_RETRY_FOREVER: no limit; CELERYC_RETRY_NEVER: none */
    double default_retry_delay; /* seconds; 0: 180 */
    double time_limit;          /* hard, seconds; 0: the worker's */
    double soft_time_limit;     /* seconds; celeryc_should_stop turns true */
    const char *rate_limit;     /* "10/s"; NULL none */

    /* Since the client API (still ABI 1: a task knows its own size). */
    bool retry_on_worker_lost; /* a killed child is a retry, up to max_retries (Celery 5.7) */
    const char *autoretry_for; /* "ValueError,OSError,my.mod.Error" are retried; "*": everything */
    const char *dont_autoretry_for; /* ... but these are not */
    double
        retry_backoff; /* seconds of the first delay, doubled each time; 0: default_retry_delay */
    double retry_backoff_max; /* 0: 600 */
    bool no_retry_jitter;     /* retry_jitter = False */
    celeryc_errback_fn
        errback; /* called instead of run when the task is an errback of one that failed here */
    const char
        *queue;     /* where this worker sends it when nobody says otherwise; NULL: default queue */
    int priority;   /* likewise, 0..9 */
    double expires; /* likewise, seconds; 0: none */
};

#define CELERYC_RETRY_FOREVER (-1)
#define CELERYC_RETRY_NEVER   (-2)

/* CELERYC_TASK(name, function, options...): registers when the plug-in is loaded. */
#define CELERYC_TASK(task_name, ...)                                                               \
    static const struct celeryc_task CELERYC_CAT_(celeryc_task_, __LINE__) = {.name = (task_name), \
                                                                              .run = __VA_ARGS__}; \
    __attribute__((constructor)) static void CELERYC_CAT_(celeryc_task_add_, __LINE__)(void)       \
    {                                                                                              \
        celeryc_task_register(&CELERYC_CAT_(celeryc_task_, __LINE__), sizeof(struct celeryc_task), \
                              CELERYC_ABI);                                                        \
    }

/* Called by CELERYC_TASK. A clash of names or a newer ABI makes loading of the plug-in fail with a clear line. */
CELERYC_API void celeryc_task_register(const struct celeryc_task *task, size_t size, int abi);

/* ---- arguments ----
 * format, one letter an argument: i int64_t*, d double*, b bool*, s const char** (UTF-8, NUL-terminated),
 * S const char**, size_t* (bytes and length), j const char**, size_t* (JSON text, verbatim). '|' starts the optional
 * ones, which keep what the variable held. Positional first, then by keyword through arg_names.
 * 0, or -1 when number or types do not fit (celeryc_args_error says how, as Python's TypeError would). */
CELERYC_API int celeryc_args(struct celeryc_call *call, const char *format, ...);
CELERYC_API const char *celeryc_args_error(struct celeryc_call *call);
CELERYC_API const char *celeryc_args_json(struct celeryc_call *call,
                                          size_t *ret_len); /* the whole array */
CELERYC_API const char *celeryc_kwargs_json(struct celeryc_call *call,
                                            size_t *ret_len); /* the whole object */

/* ---- the request ---- */
CELERYC_API const char *celeryc_task_id(const struct celeryc_call *call);
CELERYC_API const char *celeryc_task_name(const struct celeryc_call *call);
CELERYC_API const char *celeryc_hostname(const struct celeryc_call *call); /* node name */
CELERYC_API int64_t celeryc_retries(const struct celeryc_call *call);
CELERYC_API bool celeryc_redelivered(const struct celeryc_call *call);
CELERYC_API const char *celeryc_root_id(const struct celeryc_call *call);   /* own id at the top */
CELERYC_API const char *celeryc_parent_id(const struct celeryc_call *call); /* NULL: none */
CELERYC_API const char *celeryc_group_id(const struct celeryc_call *call);  /* NULL: none */
CELERYC_API int celeryc_priority(const struct celeryc_call *call);          /* 0..9 */
CELERYC_API double celeryc_time_limit(const struct celeryc_call *call);     /* effective, 0: none */
CELERYC_API double celeryc_soft_time_limit(const struct celeryc_call *call);
/* A field of Celery's request as JSON text: "headers" (the custom ones), "properties", "delivery_info", "eta",
 * "expires", "group_index", "timelimit", "stamps", "stamped_headers", "replaced_task_nesting", ... NULL: no such field,
 * or null. */
CELERYC_API const char *celeryc_request(struct celeryc_call *call, const char *field,
                                        size_t *ret_len);
/* Soft time limit, revoke or drain deadline: end soon. */
CELERYC_API bool celeryc_should_stop(const struct celeryc_call *call);

/* ---- ends; each returns the value that the function should return ---- */
CELERYC_API int celeryc_return_none(struct celeryc_call *call);
CELERYC_API int celeryc_return_int(struct celeryc_call *call, int64_t v);
CELERYC_API int celeryc_return_double(struct celeryc_call *call, double v);
CELERYC_API int celeryc_return_bool(struct celeryc_call *call, bool v);
CELERYC_API int celeryc_return_string(struct celeryc_call *call, const char *utf8);
CELERYC_API int celeryc_return_json(struct celeryc_call *call, const char *json,
                                    size_t len); /* checked */

/* type: "ValueError" (a builtin), or "module.ClassName" for an exception that callers can import. One message.
 * A caller's .get() raises that class; a name that it does not know becomes a class of that name. */
CELERYC_API int celeryc_raise(struct celeryc_call *call, const char *type, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The exception's constructor arguments as a JSON array. */
CELERYC_API int celeryc_raise_json(struct celeryc_call *call, const char *type,
                                   const char *args_json);

/* Runs the task again. countdown in seconds, negative: default_retry_delay. Set the cause with celeryc_retry_cause
 * first if there is one: it is what is raised when max_retries is used up (else MaxRetriesExceededError). */
CELERYC_API int celeryc_retry(struct celeryc_call *call, double countdown);
CELERYC_API void celeryc_retry_cause(struct celeryc_call *call, const char *type,
                                     const char *message);
CELERYC_API void celeryc_retry_max(struct celeryc_call *call, int max_retries); /* for this call */
/* Before celeryc_retry: other arguments, or another option of the next message by its Celery name ("expires", "queue",
 * "priority", "time_limit", ...), value JSON text; NULL leaves args or kwargs as they are. Bad JSON fails the retry. */
CELERYC_API void celeryc_retry_args(struct celeryc_call *call, const char *args_json,
                                    const char *kwargs_json);
CELERYC_API void celeryc_retry_option(struct celeryc_call *call, const char *option,
                                      const char *value_json);
/* Exponential delay with jitter for the current attempt, as retry_backoff gives it. */
CELERYC_API double celeryc_backoff(const struct celeryc_call *call, double factor, double max,
                                   bool jitter);

/* Ends without a result or a state. A chord that the task is a member of counts it as None (Celery's would wait for ever). */
CELERYC_API int celeryc_ignore(struct celeryc_call *call);
CELERYC_API int celeryc_reject(struct celeryc_call *call, const char *reason, bool requeue);

/* ---- on the way ---- */
/* Stores a state of your own ("PROGRESS") with JSON meta. 0 or -1 (not JSON). */
CELERYC_API int celeryc_update_state(struct celeryc_call *call, const char *state,
                                     const char *meta_json);

/* Sends a task when... now: args and kwargs are JSON text (NULL: empty), queue NULL: the default queue, countdown
 * seconds (0: at once). task_id NULL: a new one. Its id is listed among this task's children. 0 or -1. */
CELERYC_API int celeryc_send(struct celeryc_call *call, const char *name, const char *args_json,
                             const char *kwargs_json, const char *queue, double countdown,
                             const char *task_id);

enum celeryc_level { CELERYC_DEBUG, CELERYC_INFO, CELERYC_WARNING, CELERYC_ERROR };

CELERYC_API void celeryc_log(struct celeryc_call *call, enum celeryc_level level,
                             const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- the same with the place in the source, which the traceback then names; C and C++ get them by these macros ---- */
CELERYC_API int celeryc_raise_at(struct celeryc_call *call, const char *file, int line,
                                 const char *function, const char *type, const char *format, ...)
    __attribute__((format(printf, 6, 7)));
CELERYC_API int celeryc_raise_json_at(struct celeryc_call *call, const char *file, int line,
                                      const char *function, const char *type,
                                      const char *args_json);
CELERYC_API int celeryc_retry_at(struct celeryc_call *call, const char *file, int line,
                                 const char *function, double countdown);

#define celeryc_raise(call, ...) celeryc_raise_at(call, __FILE__, __LINE__, __func__, __VA_ARGS__)
#define celeryc_raise_json(call, type, args_json) \
    celeryc_raise_json_at(call, __FILE__, __LINE__, __func__, type, args_json)
#define celeryc_retry(call, countdown) \
    celeryc_retry_at(call, __FILE__, __LINE__, __func__, countdown)

#define CELERYC_CAT2_(a, b) a##b
#define CELERYC_CAT_(a, b)  CELERYC_CAT2_(a, b)

#ifdef __cplusplus
}
#endif
