/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc worker */

#include "celeryc/cli/cli.h"
#include "celeryc/worker/config.h"
#include "celeryc/worker/worker.h"

#include <errno.h>

int cmd_worker(int argc, char **argv)
{
    int code;
    struct worker_options o = {.broker = NULL};
    CLEANUP(config_deinit) struct worker_config c = {.node = NULL};
    struct err e = ERR_INIT;
    if (cli_begin(&worker_opt_table, argc, argv, &o, NULL, &code) == 0) {
        int r = config_make(&o, &c, &e);
        if (r == 0)
            code = worker_run(&c, "/proc/self/exe", CELERYC_VERSION);
        else
            code = r == OPT_E_USAGE ? cli_usage(&worker_opt_table, err_text(&e, -EINVAL))
                                    : cli_fail(&e, r);
    }
    opt_clear(&worker_opt_table, &o);
    return code;
}
