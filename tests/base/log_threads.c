/* SPDX-License-Identifier: Apache-2.0 */
/* Threads log while the process name and the level change; every line must arrive whole. A plain program, so that it
 * runs under the thread sanitizer, too. */

#include "celeryc/base/err.h"
#include "celeryc/base/log.h"
#include "celeryc/base/num.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define THREADS 4
#define LINES   200

static void *write_lines(void *arg)
{
    for (int i = 0; i < LINES; i++) {
        log_info("line %d of %s", i, (const char *)arg);
        (void)err_errno(i);
    }
    return NULL;
}

static void *change(void *arg)
{
    double d;

    (void)arg;
    for (int i = 0; i < LINES; i++) {
        log_set_process(i % 2 ? "MainProcess" : "ForkPoolWorker-1");
        log_set_level(i % 2 ? LOG_INFO : LOG_DEBUG);
        if (num_parse_f64(SLICE_LIT("1.5"), &d))
            return arg;
    }
    return NULL;
}

static int check(FILE *f)
{
    char text[256];
    int n = 0;

    while (fgets(text, sizeof(text), f)) {
        if (text[0] != '[' || (!strstr(text, ": INFO/MainProcess] line ") &&
                               !strstr(text, ": INFO/ForkPoolWorker-1] line ")))
            return fprintf(stderr, "torn line: %s", text), 1;
        n++;
    }
    if (n != THREADS * LINES)
        return fprintf(stderr, "%d lines\n", n), 1;
    return 0;
}

int main(void)
{
    char name[] = "thread";
    pthread_t threads[THREADS + 1];
    FILE *f = tmpfile();

    if (!f)
        return 1;
    log_init(LOG_INFO, "MainProcess", fileno(f));
    for (int i = 0; i <= THREADS; i++) {
        if (pthread_create(&threads[i], NULL, i < THREADS ? write_lines : change,
                           i < THREADS ? name : NULL))
            return 1;
    }
    for (int i = 0; i <= THREADS; i++)
        (void)pthread_join(threads[i], NULL);
    rewind(f);
    return check(f);
}
