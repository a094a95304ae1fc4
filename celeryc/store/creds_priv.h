/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The sources of credentials; each as creds_chain says. */

#include "celeryc/store/aws_http.h"
#include "celeryc/store/aws_settings.h"
#include "celeryc/store/creds.h"
#include "celeryc/store/store.h"

#define CREDS_ENVIRONMENT  "environment"
#define CREDS_WEB_IDENTITY "web identity"
#define CREDS_PROFILE      "profile"
#define CREDS_CONTAINER    "container endpoint"
#define CREDS_IMDS         "instance metadata"

/* Named by variables (IRSA). */
int creds_web_identity(const struct aws_settings *s, int64_t left_ms, struct creds *ret_c,
                       struct err *e) WARN_UNUSED;
/* A role of a profile, with its token file. */
int creds_assume(const struct aws_settings *s, const char *role_arn, const char *token_file,
                 const char *session, int64_t left_ms, struct creds *ret_c,
                 struct err *e) WARN_UNUSED;
int creds_container(const struct aws_settings *s, int64_t left_ms, struct creds *ret_c,
                    struct err *e) WARN_UNUSED;
int creds_imds(const struct aws_settings *s, int64_t left_ms, struct creds *ret_c,
               struct err *e) WARN_UNUSED;

/* Copies key, secret and token after a look at their bytes: what would break a header is refused. expires: ISO 8601 or
 * empty. 0, -EINVAL (e: what is wrong, never the value), -ENOMEM. */
int creds_set(struct creds *ret_c, struct slice key_id, struct slice secret, struct slice token,
              struct slice expires, struct err *e) WARN_UNUSED;
/* What the container endpoint and the instance metadata answer, and what STS does. 0, -EINVAL, -ENOMEM. */
int creds_parse_json(struct slice text, struct creds *ret_c, struct err *e) WARN_UNUSED;
int creds_parse_sts(struct slice xml, struct creds *ret_c, struct err *e) WARN_UNUSED;
