/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Signatures and canvases in C, to be sent from inside a task or from a program of your own.
 *
 *     struct celeryc_sig *sum = celeryc_chord(
 *         celeryc_group(2, (struct celeryc_sig *[]){celeryc_signature("tasks.add", "[1, 1]", NULL),
 *                                                   celeryc_signature("tasks.add", "[2, 2]", NULL)}),
 *         celeryc_signature("tasks.tsum", NULL, NULL));
 *
 *     celeryc_apply(call, sum, NULL);                      in a task: now
 *     return celeryc_replace(call, sum);                   in a task: in its own place
 *
 *     struct celeryc_client *c = celeryc_client_new("redis://localhost/0", "redis://localhost/0", NULL);
 *     struct celeryc_result *r = celeryc_client_apply(c, sum, NULL);
 *     if (celeryc_result_wait(r, 10.0) == 0)
 *         puts(celeryc_result_json(r, NULL));
 *     celeryc_result_free(r);
 *     celeryc_sig_free(sum);
 *     celeryc_client_free(c);
 *
 * Build a program:  cc program.c $(pkg-config --cflags --libs celeryc)
 *
 * Ownership: what is built from signatures takes them, also when it fails; apply, replace and add_to_chord do not. A
 * signature may be applied several times. Errors are sticky: NULL (out of memory) and bad JSON travel up to the call
 * that sends, which says what was wrong, so that nothing has to be checked on the way. JSON values pass through
 * verbatim: big integers, NaN, 1.0 and Python's typed wrappers survive. One thread at a time uses a client and what
 * came from it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <celeryc/task.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- signatures ---- */

struct celeryc_sig;

/* args: JSON array, kwargs: JSON object; NULL: none. */
CELERYC_API struct celeryc_sig *celeryc_signature(const char *name, const char *args,
                                                  const char *kwargs);
/* Any signature as Celery writes it (a dict as JSON): a task, chain, group, chord, map, starmap, chunks. */
CELERYC_API struct celeryc_sig *celeryc_sig_from_json(const char *json, size_t len);
CELERYC_API struct celeryc_sig *celeryc_sig_copy(const struct celeryc_sig *s);
CELERYC_API void celeryc_sig_free(struct celeryc_sig *s);

CELERYC_API struct celeryc_sig *celeryc_chain(size_t n, struct celeryc_sig *const *steps);
CELERYC_API struct celeryc_sig *celeryc_group(size_t n, struct celeryc_sig *const *members);
/* header: a group, or any signature (then a header of one). */
CELERYC_API struct celeryc_sig *celeryc_chord(struct celeryc_sig *header, struct celeryc_sig *body);
/* it: JSON array. task(x) or task(*x) for each element, in one message; chunks: in messages of n elements each. */
CELERYC_API struct celeryc_sig *celeryc_map(struct celeryc_sig *task, const char *it);
CELERYC_API struct celeryc_sig *celeryc_starmap(struct celeryc_sig *task, const char *it);
CELERYC_API struct celeryc_sig *celeryc_chunks(struct celeryc_sig *task, const char *it, int n);

/* Changes of a signature; each gives s back. */
CELERYC_API struct celeryc_sig *celeryc_sig_immutable(struct celeryc_sig *s); /* .si() */
/* An option of apply_async by its Celery name, value JSON text: "queue", "\"fast\""; "countdown", "10"; "priority";
 * "expires"; "eta"; "task_id"; "time_limit"; "ignore_result"; "headers"; ... */
CELERYC_API struct celeryc_sig *celeryc_sig_set(struct celeryc_sig *s, const char *option,
                                                const char *value);
CELERYC_API struct celeryc_sig *celeryc_sig_link(struct celeryc_sig *s,
                                                 struct celeryc_sig *callback);
CELERYC_API struct celeryc_sig *celeryc_sig_link_error(struct celeryc_sig *s,
                                                       struct celeryc_sig *errback);
/* A stamp, as Celery's stamp(): on every task inside and what is linked to it, of a chord on its header. value: JSON. */
CELERYC_API struct celeryc_sig *celeryc_sig_stamp(struct celeryc_sig *s, const char *name,
                                                  const char *value);
/* As Celery writes it; lives until s changes or goes. NULL: s is broken (celeryc_sig_error). */
CELERYC_API const char *celeryc_sig_json(struct celeryc_sig *s, size_t *ret_len);
CELERYC_API const char *celeryc_sig_error(const struct celeryc_sig *s); /* NULL: fine */

/* ---- inside a task ---- */

/* Applies s now; what is sent is among the task's children. options: JSON object that goes over the signature's own,
 * or NULL. ret_result (may be NULL): the result tuple, [["<id>", null], null], which a task may return with
 * celeryc_return_json as Python returns an AsyncResult; lives until the task ends. 0, or -1: the call has failed with
 * ValueError, return what it gave. */
CELERYC_API int celeryc_apply(struct celeryc_call *call, struct celeryc_sig *s, const char *options,
                              const char **ret_result);
/* Ends: s takes the place of this task: its id, its links, its chain and chord (Task.replace). */
CELERYC_API int celeryc_replace(struct celeryc_call *call, struct celeryc_sig *s);
/* s becomes one more member of the chord that this task is in, sent with the end of the task. 0 or -1, as above. */
CELERYC_API int celeryc_add_to_chord(struct celeryc_call *call, struct celeryc_sig *s);

/* ---- in a program ---- */

struct celeryc_client;
struct celeryc_result;

/* broker and backend: URLs; broker NULL: CELERY_BROKER_URL, else redis://localhost:6379/0; backend NULL: no results.
 * options: JSON object of Celery settings (task_default_queue, broker_transport_options, task_serializer,
 * result_backend_transport_options, ...) or NULL. Connects when first used, and again when the connection was lost;
 * SIGPIPE is ignored from then on. NULL: out of memory; a wrong URL or setting is told by celeryc_client_error. */
CELERYC_API struct celeryc_client *celeryc_client_new(const char *broker, const char *backend,
                                                      const char *options);
CELERYC_API void celeryc_client_free(struct celeryc_client *c);
/* What went wrong last, for people: names the server or the setting. NULL: nothing. */
CELERYC_API const char *celeryc_client_error(const struct celeryc_client *c);

/* Sends s, all of it or nothing, also over a connection that is lost on the way; options as in celeryc_apply. NULL: it
 * was not sent (celeryc_client_error), or nobody can tell because the server has been away for 20 seconds. */
CELERYC_API struct celeryc_result *celeryc_client_apply(struct celeryc_client *c,
                                                        struct celeryc_sig *s, const char *options);
/* The result of a task that somebody sent. */
CELERYC_API struct celeryc_result *celeryc_client_result(struct celeryc_client *c,
                                                         const char *task_id);
CELERYC_API void celeryc_result_free(struct celeryc_result *r);

CELERYC_API const char *celeryc_result_id(const struct celeryc_result *r);
/* The tuple by which Python finds the result again (result_from_tuple). */
CELERYC_API const char *celeryc_result_tuple(const struct celeryc_result *r);
/* Waits until the result is there, for a group until all are; timeout in seconds, negative: for ever.
 * A task that ignores its result has none to wait for. When a step before has failed, that is the end, and the result
 * is its error. 0: it has ended, in whatever state; -ETIMEDOUT; -EIO and celeryc_client_error. As the next ones
 * it takes the NULL of something that was not sent: -EINVAL. */
CELERYC_API int celeryc_result_wait(struct celeryc_result *r, double timeout_s);
/* Reads the state now: "PENDING", "STARTED", "SUCCESS", ...; a group's is SUCCESS when all are, the first failure's
 * when one failed. NULL: celeryc_client_error. */
CELERYC_API const char *celeryc_result_state(struct celeryc_result *r);
/* JSON text, of a group an array. SUCCESS: the value; FAILURE, REVOKED, RETRY: {"exc_type", "exc_message",
 * "exc_module"}. NULL before it was waited for. */
CELERYC_API const char *celeryc_result_json(const struct celeryc_result *r, size_t *ret_len);
CELERYC_API const char *celeryc_result_traceback(const struct celeryc_result *r); /* NULL: none */
/* Removes what is stored (AsyncResult.forget). 0, -EIO. */
CELERYC_API int celeryc_result_forget(struct celeryc_result *r);

#ifdef __cplusplus
}
#endif
