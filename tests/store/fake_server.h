/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A tiny HTTP server that answers each request as its script says: faults at exact moments. Loopback, one thread. */

#include "celeryc/base/buf.h"

enum fake_kind {
    FAKE_ANSWER, /* status and body */
    FAKE_CLOSE,  /* reads the request, then closes */
    FAKE_RESET,  /* reads the request, then resets the connection */
    FAKE_CUT,    /* promises the body and a half more, closes behind the body */
    FAKE_SILENCE, /* reads the request and never answers; goes on to the next step on a new connection */
    FAKE_GARBAGE, /* bytes that are no HTTP */
    FAKE_HUGE,    /* promises 2 GiB */
    FAKE_ENDLESS, /* a body without end */
};

struct fake_step {
    enum fake_kind kind;
    int status;
    const char *body;
    const char *headers; /* more of them, each with "\r\n" behind it; NULL none */
};

struct fake_request {
    char *head; /* up to the empty line, NUL-terminated */
    char *body;
    size_t body_len;
    unsigned connection; /* which one it came on, 1.. */
};

struct fake_server;

/* The last step is repeated. */
struct fake_server *fake_server_start(const struct fake_step *steps, size_t n);
struct fake_server *fake_server_stop(struct fake_server *f);
DEFINE_CLEANUP(struct fake_server, fake_server_stop)

int fake_server_port(const struct fake_server *f);
size_t fake_server_count(struct fake_server *f);
/* Valid until the server is stopped. */
const struct fake_request *fake_server_request(struct fake_server *f, size_t i);
