/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The panel (pure: a command's arguments to its reply), the mailbox (bytes to a command) and events, among themselves. */

#include "celeryc/control/control.h"
#include "celeryc/control/revoked.h"

#define REVOKES_MAX 50000 /* ids, and stamps; celery/worker/state.py */

/* What commands work on. No I/O. */
struct panel {
    const struct control_host *host;
    const char *node, *version;
    const struct redis_endpoint *broker, *backend; /* the second NULL: none */
    const char *key_prefix;
    struct revoked *ids, *stamps; /* stamps: header NUL value-as-JSON */
    uint64_t clock;               /* Lamport, of the whole worker */
    bool heartbeat;               /* set by the command: send one at once */
    /* what waits at the broker for its eta; set while `scheduled` runs */
    size_t n_delayed;
    const struct panel_delayed *delayed;
};

struct panel_delayed {
    struct message m;
    int64_t due_us;
};

/* ---- mailbox.c ---- */

struct mailbox_message {
    int64_t clock; /* of the sender's mailbox, 0: none */
    bool for_us;
    struct json_val method; /* any kind; as sent */
    struct json_val arguments;
    struct json_val ticket;
    bool wants_reply;
    struct slice exchange, routing_key; /* where to, decoded */
};

/* The envelope and the body in it, an object. Both borrow the arena and raw. Returns as mailbox_parse. */
int mailbox_read(struct arena *a, const struct wire *w, struct slice raw,
                 struct json_val *ret_envelope, struct json_val *ret_body,
                 struct err *e) WARN_UNUSED;
/* Reads a broadcast. 0; -ENOMEM; -EINVAL with what is wrong in e, the sentence for the log. */
int mailbox_parse(struct arena *a, const struct wire *w, const char *node, struct slice raw,
                  struct mailbox_message *ret_m, struct err *e) WARN_UNUSED;
/* The envelope of a reply or an event, as kombu writes it. headers is JSON object text. */
void mailbox_write(struct buf *dst, const struct wire *w, struct slice body, struct slice headers,
                   struct slice exchange, struct slice routing_key, int delivery_mode);

/* ---- match.c ---- */

/* kombu/matcher.py: "glob" (fnmatch on the whole name) and "pcre" (re.match: anchored at the start only).
 * 0 with the answer; -EINVAL with the reason when matcher or pattern cannot be used; -ENOMEM. */
int match_name(struct arena *a, struct slice name, struct slice pattern, struct slice matcher,
               bool *ret_match, struct err *e) WARN_UNUSED;

/* ---- panel.c ---- */

struct call {
    struct panel *p;
    struct arena *arena;
    const char *name; /* the command's, not the alias */
    struct json_val args;
    struct buf out;
    bool no_reply;
    bool nomem;     /* something could not be done for want of memory: the reply is an error */
    size_t n_store; /* ids whose REVOKED is to be stored before the reply leaves */
    struct slice *store;
};

typedef void (*command_fn)(struct call *c);

struct command {
    const char *name, *alias;
    command_fn fn;
    const char *required[3]; /* arguments that must be there, NULL-terminated */
    bool strict;             /* refuses arguments that it does not know */
    const char *known[3];    /* the optional ones of a strict command */
};

int panel_init(struct panel *p, const struct control_host *h,
               const struct control_options *o) WARN_UNUSED;
void panel_deinit(struct panel *p);

/* Runs a command. c->out, c->store and c->no_reply say what is to be done; the caller frees out. */
void panel_run(struct panel *p, struct arena *a, struct json_val method, struct json_val arguments,
               struct call *ret_c);

void reply_ok(struct call *c, const char *text);
void reply_error(struct call *c, const char *text);
/* {"error": "ValueError('text')"} */
void reply_raise(struct call *c, const char *type, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* repr() of a str. */
void write_repr(struct buf *dst, struct slice text);
bool json_truth(struct json_val v); /* Python's bool() */

/* An argument that is one text or a list of texts (kombu's maybe_list), without doubles and without what is no text or over
 * LIMIT_CONTROL_NAME. 0 or -ENOMEM. */
int call_names(struct call *c, const char *key, struct slice **ret_names,
               size_t *ret_n) WARN_UNUSED;
/* Adds a peer's revoked ids: a list of ids, or an object whose keys are ids. */
void panel_merge_revoked(struct panel *p, struct arena *a, struct json_val revoked);

/* ---- inspect.c, manage.c, revoke.c: the commands; each table ends with a NULL name ---- */
extern const struct command inspect_commands[], manage_commands[], revoke_commands[];
void inspect_write_task(struct buf *dst, struct arena *a, const struct panel *p,
                        const struct control_task *t, bool safe);

/* The stamps of m that were revoked; log_text gets " (revoked by header: {...})". */
bool stamps_revoked(const struct panel *p, const struct message *m, struct buf *log_text);

/* ---- events.c ---- */

enum event_kind {
    EVENT_ONLINE,
    EVENT_HEARTBEAT,
    EVENT_OFFLINE,
    EVENT_ASKED, /* the heartbeat that a command asked for */
};

/* The routing key, and the body of the event; ticks the clock. */
const char *event_write(struct buf *dst, struct panel *p, enum event_kind kind, int64_t freq_ms);
