/* SPDX-License-Identifier: Apache-2.0 */
/* The handler only notes the signal: the one variable here is the only way from a handler to the program. */

#include "planner/stop.h"

#include <signal.h>
#include <string.h>

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
    caught = number;
}

void stop_on_signals(void)
{
    struct sigaction s;

    memset(&s, 0, sizeof(s));
    s.sa_handler = on_signal;
    s.sa_flags = (int)SA_RESETHAND; /* no SA_RESTART: a read from a pipe must notice */
    (void)sigemptyset(&s.sa_mask);
    (void)sigaction(SIGINT, &s, NULL);
    (void)sigaction(SIGTERM, &s, NULL);
    s.sa_handler = SIG_IGN; /* a reader that went away is an error of that write, not our end */
    s.sa_flags = 0;
    (void)sigaction(SIGPIPE, &s, NULL);
}

bool stop_requested(void)
{
    return caught != 0;
}

int stop_signal(void)
{
    return caught;
}
