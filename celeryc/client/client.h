/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A client for the commands of this tree, made of settings that were read already. */

#include "celeryc/worker/settings.h"

#include <celeryc/client.h>

/* URLs as every subcommand finds them: what is given, the environment, the settings, which it takes (they are empty
 * afterwards). NULL: out of memory; what else is wrong celeryc_client_error says. */
struct celeryc_client *client_of_settings(struct settings *s_take, const char *broker,
                                          const char *backend);

bool client_has_backend(const struct celeryc_client *c);
