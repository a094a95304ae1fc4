/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Where Redis is and how it is reached: the URL forms of kombu (wire-transport 1.1), parsed once, and the settings that
 * go with them. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

#include <stdint.h>

/* Texts of a TLS option; files are read at each connection, so that a renewed certificate is used by the next one. */
enum redis_tls_text {
    REDIS_TLS_CA_CERTS, /* file */
    REDIS_TLS_CA_PATH,  /* folder of hashed names */
    REDIS_TLS_CA_DATA,  /* PEM */
    REDIS_TLS_CERTFILE,
    REDIS_TLS_KEYFILE,
    REDIS_TLS_PASSWORD, /* of the key */
    REDIS_TLS_TEXTS,
};

enum redis_choice {
    REDIS_UNSET,
    REDIS_YES,
    REDIS_NO,
};

struct redis_tls {
    enum redis_choice on;
    enum redis_choice verify;     /* unset: yes */
    enum redis_choice check_host; /* unset: yes, when the certificate is verified */
    char *text[REDIS_TLS_TEXTS];  /* NULL: not given; without any CA the system's store is used */
};

/* What the settings or the query of a URL say. Whatever is not given is 0 or NULL. */
struct redis_options {
    struct redis_tls tls;
    int64_t connect_timeout_ms, reply_timeout_ms;
    int64_t health_ms; /* a connection silent for so long is asked; < 0: never */
    enum redis_choice keepalive;
    enum redis_choice shuffle; /* broker_failover_strategy "shuffle" */
    /* Of Sentinel */
    char *master_name;
    char *sentinel_user, *sentinel_password;
    struct redis_tls sentinel_tls;
};

void redis_options_deinit(struct redis_options *o);
DEFINE_CLEANUP_VALUE(struct redis_options, redis_options_deinit)

/* Sets one option by redis-py's name (ssl_cert_reqs, ssl_ca_certs, socket_timeout, master_name, ...) from its text.
 * 0; -ENOENT: there is no such option; -EINVAL with a text that says what is expected; -ENOMEM. */
int redis_options_set(struct redis_options *o, const char *name, const char *value,
                      struct err *e) WARN_UNUSED;
/* The same for an option of sentinel_kwargs. */
int redis_options_set_sentinel(struct redis_options *o, const char *name, const char *value,
                               struct err *e) WARN_UNUSED;

struct redis_endpoint {
    char *text;   /* the URL as given */
    char *masked; /* for people: password as "**", kombu's form (redis://localhost:6379//) */
    char *host;   /* NULL for a Unix socket and for Sentinel */
    int port;
    char *path;     /* Unix socket, NULL for TCP */
    char *user;     /* NULL */
    char *password; /* NULL */
    int db;
    struct redis_options o;
    /* Of the first of a list: the other servers, each tried when the one before cannot be reached. Of the first of
     * `sentinels`: the other Sentinels. Owned. */
    struct redis_endpoint *next;
    struct redis_endpoint *sentinels; /* NULL: none. Else these know where the master is */
    bool is_sentinel;
};

/* redis://[user[:pw]@]host[:port][/db], rediss:// (TLS), redis+socket:///path[?virtual_host=db] (also socket://, as
 * result backends are written), sentinel://host[:port][/db], and lists of them with ';' between (Sentinels only among
 * themselves). Options of redis-py may stand in the query. Other schemes (amqp, rpc, db+...) are refused with the
 * sentence that only Redis is spoken. 0, -EINVAL with a text that names the URL masked and the fix, -ENOMEM. */
int redis_endpoint_parse(const char *url, struct redis_endpoint *ret_ep, struct err *e) WARN_UNUSED;

/* Adds what the settings say where the URL says nothing, to every server, and checks the whole. o may be NULL. Without
 * this call an endpoint of Sentinel has no master name unless its URL names it. 0; -EINVAL with the fix; -ENOMEM. */
int redis_endpoint_apply(struct redis_endpoint *ep, const struct redis_options *o,
                         struct err *e) WARN_UNUSED;

void redis_endpoint_deinit(struct redis_endpoint *ep);
DEFINE_CLEANUP_VALUE(struct redis_endpoint, redis_endpoint_deinit)

/* Appends what stands for the server and database in notes that are stored: "host:6379/0", "/path/0", "mymaster/0". Of a
 * list the first. */
void redis_endpoint_write_name(struct buf *dst, const struct redis_endpoint *ep);

/* Same server and database: one script may do the work of both. */
bool redis_endpoint_same(const struct redis_endpoint *a, const struct redis_endpoint *b);
