/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The broker as the commands of operators see it: one connection, the settings that name its keys, bounded reads. */

#include "celeryc/cli/cli.h"
#include "celeryc/redis/sync.h"

struct cli_broker {
    struct settings s;
    struct redis_endpoint ep;
    struct redis_sync *redis;
    const char *prefix; /* global_keyprefix, "" */
    int64_t shown_ns;   /* when progress was shown last */
    bool line_open;
};

#define CLI_E_TOLD 1 /* what was wrong has been printed */

/* Settings by --config, then the connection. 0, -Exxx, CLI_E_TOLD. */
int cli_broker_open(struct cli_broker *b, const struct cli_common *o, struct err *e) WARN_UNUSED;
void cli_broker_close(struct cli_broker *b);
DEFINE_CLEANUP_VALUE(struct cli_broker, cli_broker_close)

/* Words up to NULL. */
int cli_ask(struct cli_broker *b, const struct redis_reply **ret_reply, struct err *e, ...)
    __attribute__((sentinel, warn_unused_result));
/* The answer as a number; anything else is -EPROTO. */
int cli_ask_i64(struct cli_broker *b, int64_t *ret_v, struct err *e, ...)
    __attribute__((sentinel, warn_unused_result));

/* All keys of the form <prefix><start>..., without doubles, in order of their bytes; what a SCAN sees. */
int cli_keys(struct cli_broker *b, const char *start, struct strv *ret_keys,
             struct err *e) WARN_UNUSED;

/* The same with a pattern behind the prefix. */
int cli_keys_like(struct cli_broker *b, const char *glob, struct strv *ret_keys,
                  struct err *e) WARN_UNUSED;

/* A key of ours: prefix, then the format. NULL: out of memory. Freed by the caller. */
char *cli_key(const struct cli_broker *b, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* How many celeryc workers have beaten within the last 15 s. */
int cli_live_workers(struct cli_broker *b, int64_t *ret_n, struct err *e) WARN_UNUSED;

/* Text of a message for a terminal: control characters as blanks, cut at 255 bytes. */
void cli_write_plain(struct buf *dst, struct slice s);

/* "123 of 1000 what" when stderr is a terminal, once a second; the last call has done == total and ends the line. */
void cli_progress(struct cli_broker *b, const char *what, uint64_t done, uint64_t total);

/* Asks on the terminal; true for yes. */
bool cli_confirm(const char *question);
