/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the suite's Python tasks get from Python itself: +, sum(), keyword arguments, a redis client. */

#include <celeryc/client.h>
#include <celeryc/task.h>

#include <jansson.h>

#define TASK(name) "t.integration.tasks." name

/* a + b as Python adds JSON values: a new reference, or NULL and what the TypeError says in error. */
json_t *value_add(const json_t *a, const json_t *b, char *error, size_t size);
/* sum(list), likewise. */
json_t *value_sum(const json_t *list, char *error, size_t size);

/* The arguments as trees; the caller drops them. */
json_t *args_tree(struct celeryc_call *call);
json_t *kwargs_tree(struct celeryc_call *call);
json_t *tree_of(const char *json, size_t len);

/* Ends the call with v, which it takes; NULL: with a TypeError that says error. */
int return_value(struct celeryc_call *call, json_t *v, const char *error);
int wrong_arguments(struct celeryc_call *call);

/* The text as a JSON string, or the value as JSON; the caller frees it. */
char *json_text(const json_t *v);

/* RPUSH and INCR on database 0 of REDIS_HOST:REDIS_PORT. message: JSON. 0, or what celeryc_raise gave in *ret_end. */
int redis_push(struct celeryc_call *call, const char *key, const json_t *message, int *ret_end);
int redis_increment(struct celeryc_call *call, const char *key, int *ret_end);

void sleep_for(double seconds);
