/* SPDX-License-Identifier: Apache-2.0 */
/* Functions with statements of their own, and with an effect outside; the twins are in harness/scatter_app.py. */

#include <celeryc/migration.h>

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* A line in the ledger for each account. */
static int book(const struct scatter_record *r, struct scatter_tx *tx, struct scatter_change *c)
{
    const char *values[] = {scatter_key(r), scatter_text(r, "word")};
    int64_t changed = 0;
    int rc = scatter_exec(tx, "INSERT INTO entry (account, word) VALUES ($1, $2)", values, 2, NULL);

    if (!rc)
        rc = scatter_exec(tx, "UPDATE account SET changes = changes + 1 WHERE id = $1", values, 1,
                          &changed);
    if (rc)
        return rc;
    return changed == 1 ? 0 : scatter_fail(c, "AssertionError", "no account %s", values[0]);
}

/* Marked once, and still called what it was. */
static int booked(const struct scatter_record *planned, const struct scatter_record *now,
                  struct scatter_change *c)
{
    int64_t changes = 0;

    if (scatter_int(now, "changes", &changes) || changes != 1)
        return scatter_fail(c, "AssertionError", "changed %d times", (int)changes);
    return strcmp(scatter_text(planned, "word"), scatter_text(now, "word"))
               ? scatter_fail(c, "AssertionError", "it was %s", scatter_text(planned, "word"))
               : 0;
}

/* Takes the line out of the ledger, where nobody has gone on since. */
static int unbook(const struct scatter_record *r, struct scatter_tx *tx, struct scatter_change *c)
{
    const char *values[] = {scatter_key(r), scatter_text(r, "word")};
    int64_t changed = 0;
    int rc =
        scatter_exec(tx, "UPDATE account SET changes = changes - 1 WHERE id = $1 AND changes = 1",
                     values, 1, &changed);

    if (!rc && changed == 0)
        return scatter_skip(c, "changed since");
    return rc ? rc
              : scatter_exec(tx, "DELETE FROM entry WHERE account = $1 AND word = $2", values, 2,
                             NULL);
}
SCATTER_MIGRATION("interop.book", .row = book, .table = "account", .reads = {"word"},
                  .writes = {"changes"}, .check = booked, .undo_row = unbook)

/* Its key in a file. */
static int note(const struct scatter_record *r, struct scatter_change *c)
{
    const char *key = scatter_idempotency_key(r), *path = scatter_param(r, "file");
    char line[200];
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    size_t n = strlen(key);

    if (fd < 0 || n + 2 > sizeof(line))
        return scatter_fail(c, "OSError", "cannot open %s", path);
    memcpy(line, key, n);
    line[n++] = '\n';
    ssize_t written = write(fd, line, n);

    (void)close(fd);
    return written == (ssize_t)n ? 0 : scatter_fail(c, "OSError", "cannot write %s", path);
}

static int tell(const struct scatter_record *r, struct scatter_change *c)
{
    (void)usleep(1000); /* as a call takes its time */
    return note(r, c);
}
SCATTER_MIGRATION("interop.tell", .external = tell, .table = "account", .reads = {"word"})

/* The record whose key is "at" waits until there is the file "go". */
static void wait_for_go(const struct scatter_record *r)
{
    const char *go = scatter_param(r, "go");

    if (strcmp(scatter_key(r), scatter_param(r, "at")) != 0)
        return;
    while (access(go, F_OK))
        (void)usleep(10000);
}

static int linger(const struct scatter_record *r, struct scatter_change *c)
{
    int rc = note(r, c);

    wait_for_go(r);
    return rc;
}
SCATTER_MIGRATION("interop.linger", .external = linger, .table = "account", .reads = {"word"})

/* With the locks of its chunk. */
static int hold(const struct scatter_record *r, struct scatter_tx *tx, struct scatter_change *c)
{
    const char *values[] = {scatter_key(r)};
    int rc =
        scatter_exec(tx, "UPDATE account SET changes = changes + 1 WHERE id = $1", values, 1, NULL);

    if (!rc)
        rc = note(r, c);
    if (!rc)
        wait_for_go(r);
    return rc;
}
SCATTER_MIGRATION("interop.hold", .row = hold, .table = "account", .reads = {"word"})
