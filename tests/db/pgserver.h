/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A private PostgreSQL cluster for one test program: a temporary folder, a Unix socket, no network. */

/* Makes and starts it; ends the program with a clear line when that fails. Started once, before the tests fork. */
void pgserver_start(void);
/* Stops it by its process id and removes the folder. */
void pgserver_stop(void);
/* libpq URL of the cluster, user postgres. */
const char *pgserver_url(void);
