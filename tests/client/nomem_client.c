/* SPDX-License-Identifier: Apache-2.0 */
/* A client and results with every allocation failing once, as far as no server is needed. */

#include "../base/nomem.h"

#include "celeryc/client/client_priv.h"

#include <errno.h>

static int make_client(void)
{
    struct celeryc_client *c = celeryc_client_new("redis://localhost/0", "redis://localhost/1",
                                                  "{\"task_default_queue\": \"orders\"}");
    int r = c ? 0 : -ENOMEM;
    if (c && celeryc_client_error(c)) {
        (void)fprintf(stderr, "%s\n", celeryc_client_error(c));
        r = -EINVAL;
    }
    celeryc_client_free(c);
    return r;
}

static struct celeryc_client *client;

static int make_result(void)
{
    static const char tuple[] =
        "[[\"g\", [[\"a\\u00e9\", null], null]], [[[\"b\", null], null], [[\"h\", null], "
        "[[[\"c\", null], null]]]]]";
    struct celeryc_result *r = client_result_new(client, SLICE_LIT(tuple));
    int code = r ? 0 : -ENOMEM;
    celeryc_result_free(r);
    return code;
}

int main(void)
{
    (void)nomem_sweep("client", make_client);
    client = celeryc_client_new("redis://localhost/0", "redis://localhost/0", NULL);
    (void)nomem_sweep("result", make_result);
    celeryc_client_free(client);
    return 0;
}
