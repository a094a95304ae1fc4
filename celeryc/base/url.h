/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* URLs: scheme://[user[:password]@]host[:port]/path?query, percent-decoded, each part NUL-terminated. */

#include "celeryc/base/err.h"

#include <stdint.h>

struct url {
    char *scheme; /* lower case */
    char *user;   /* NULL when absent */
    char *password;
    char *host;  /* "" when absent; IPv6 without brackets */
    int port;    /* 0 when absent */
    char *path;  /* with its leading '/', "" when absent */
    char *query; /* raw, NULL when absent */
};

void url_deinit(struct url *u);
DEFINE_CLEANUP_VALUE(struct url, url_deinit)

int url_parse(const char *text, struct url *ret_url, struct err *e) WARN_UNUSED;

/* The decoded value of a query key, freed by the caller; NULL when absent. The last duplicate wins. */
char *url_query(const struct url *u, const char *key);

/* A copy with the password as "**" (kombu's form), freed by the caller. Works on text that does not parse, too. */
char *url_masked(const char *text);
