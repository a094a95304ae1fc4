/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the readers of answers share. path: for the error text. */

#include "k8s/scaler/kube_answer.h"

/* *ret_text stays as it is when v is absent; else freed by the caller. */
int answer_text(struct arena *a, struct json_val v, const char *path, char **ret_text,
                struct err *e) WARN_UNUSED;
int answer_count(struct json_val v, const char *path, int64_t absent, int64_t *ret_n,
                 struct err *e) WARN_UNUSED;
/* 0 when absent. */
int answer_time(struct arena *a, struct json_val v, const char *path, int64_t *ret_us,
                struct err *e) WARN_UNUSED;

/* A LabelSelector as the query parameter labelSelector has it. Never empty: that would be every pod. */
int answer_selector(struct arena *a, struct json_val v, char **ret_selector,
                    struct err *e) WARN_UNUSED;
