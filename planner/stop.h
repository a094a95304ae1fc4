/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Ctrl-C and TERM: the work in hand is given up at the next safe place, a second signal ends the process at once. */

#include <stdbool.h>

void stop_on_signals(void);
bool stop_requested(void);
int stop_signal(void); /* 0 none */
