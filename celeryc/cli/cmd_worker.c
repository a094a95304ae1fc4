/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc worker */

#include "celeryc/cli/cli.h"
#include "celeryc/worker/config.h"
#include "celeryc/worker/worker.h"

#include <errno.h>
#include <stdlib.h>

/* What celery.chord_unlock and the keepers need in a child travels in the environment, for the URL may hold a password. */
static int tell_zygote(const struct worker_options *o, struct err *e)
{
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): one thread */
    if ((o->config && setenv("CELERYC_ZYGOTE_CONFIG", o->config, 1) != 0) ||
        /* NOLINTNEXTLINE(concurrency-mt-unsafe): one thread */
        (o->broker && setenv("CELERYC_KEEPER_BROKER", o->broker, 1) != 0) ||
        /* NOLINTNEXTLINE(concurrency-mt-unsafe): one thread */
        (o->result_backend && setenv("CELERYC_ZYGOTE_BACKEND", o->result_backend, 1) != 0))
        return err_set(e, -ENOMEM, "out of memory");
    return 0;
}

int cmd_worker(int argc, char **argv)
{
    int code;
    struct worker_options o = {.broker = NULL};
    CLEANUP(config_deinit) struct worker_config c = {.node = NULL};
    struct err e = ERR_INIT;
    if (cli_begin(&worker_opt_table, argc, argv, &o, NULL, &code) == 0) {
        int r = tell_zygote(&o, &e);
        if (r == 0)
            r = config_make(&o, &c, &e);
        if (r == 0)
            code = worker_run(&c, "/proc/self/exe", CELERYC_VERSION);
        else
            code = r == OPT_E_USAGE ? cli_usage(&worker_opt_table, err_text(&e, -EINVAL))
                                    : cli_fail(&e, r);
    }
    opt_clear(&worker_opt_table, &o);
    return code;
}
