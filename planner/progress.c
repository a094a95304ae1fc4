/* SPDX-License-Identifier: Apache-2.0 */
/* One write a line, so that other output never mixes into it. */

#include "planner/progress.h"

#include "celeryc/base/buf.h"
#include "celeryc/base/clock.h"

#include <sys/ioctl.h>
#include <unistd.h>

#define EVERY_NS (100 * NS_PER_MS)

void progress_init(struct progress *p, const char *form)
{
    *p = (struct progress){.form = str_eq(form, "bar")    ? PROGRESS_BAR
                                   : str_eq(form, "json") ? PROGRESS_JSON
                                                          : PROGRESS_NONE};
}

void progress_begin(struct progress *p, const char *phase)
{
    p->phase = phase;
    p->started_ns = clock_mono_ns();
    p->shown_ns = 0;
}

const char *progress_number(int64_t v, char dst[32])
{
    char digits[24];
    int n = snprintf(digits, sizeof(digits), "%lld", (long long)v), out = 0;

    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0 && digits[i - 1] != '-')
            dst[out++] = ',';
        dst[out++] = digits[i];
    }
    dst[out] = '\0';
    return dst;
}

static void write_stderr(const struct buf *b)
{
    ssize_t n = buf_ok(b) ? 0 : write(STDERR_FILENO, b->data, b->len);

    (void)n; /* nobody to tell */
}

static void show_json(const struct progress *p, int64_t records, int64_t batches, int64_t total)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_appendf(&b,
                "{\"phase\": \"%s\", \"records\": %lld, \"batches\": %lld, \"total\": ", p->phase,
                (long long)records, (long long)batches);
    if (total < 0)
        buf_append_str(&b, "null}\n");
    else
        buf_appendf(&b, "%lld}\n", (long long)total);
    write_stderr(&b);
}

static size_t screen_width(void)
{
    struct winsize w;

    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

/* planning: 1,234,000 records in 123 batches, 310,000/s */
static void show_bar(struct progress *p, int64_t records, int64_t batches, int64_t total)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    CLEANUP(buf_deinit) struct buf line = BUF_INIT;
    double seconds = (double)(clock_mono_ns() - p->started_ns) / 1e9;
    char number[32];

    buf_appendf(&b, "%s: %s", p->phase, progress_number(records, number));
    if (total >= 0)
        buf_appendf(&b, " of %s", progress_number(total, number));
    buf_appendf(&b, " records, %s batches", progress_number(batches, number));
    if (seconds > 0.05)
        buf_appendf(&b, ", %s/s", progress_number((int64_t)((double)records / seconds), number));
    if (total > 0 && records > 0 && records < total)
        buf_appendf(&b, ", %.0f s left", seconds * (double)(total - records) / (double)records);
    buf_append_char(&line, '\r');
    buf_append(&line, b.data, MIN(b.len, screen_width() - 1));
    buf_append_str(&line, "\x1b[K");
    write_stderr(&line);
    p->drawn = true;
}

static void show(struct progress *p, int64_t records, int64_t batches, int64_t total)
{
    if (p->form == PROGRESS_JSON)
        show_json(p, records, batches, total);
    else if (p->form == PROGRESS_BAR)
        show_bar(p, records, batches, total);
}

void progress_update(struct progress *p, int64_t records, int64_t batches, int64_t total)
{
    int64_t now;

    if (p->form == PROGRESS_NONE)
        return;
    now = clock_mono_ns();
    if (now - p->shown_ns < EVERY_NS)
        return;
    p->shown_ns = now;
    show(p, records, batches, total);
}

void progress_end(struct progress *p, int64_t records, int64_t batches, int64_t total)
{
    show(p, records, batches, total);
    if (p->drawn)
        (void)fputc('\n', stderr);
    p->drawn = false;
}

void progress_clear(struct progress *p)
{
    if (p->drawn)
        (void)fputs("\r\x1b[K", stderr);
    p->drawn = false;
}
