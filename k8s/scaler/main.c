/* SPDX-License-Identifier: Apache-2.0 */
/* scatter-scale: workers by load, to zero and back. */

#include "celeryc/base/err.h"
#include "k8s/scaler/replay.h"

int main(int argc, char **argv)
{
    struct err e = ERR_INIT;
    int r = argc == 3 ? replay(argv[2], stdout, &e) : 0;

    if (r)
        (void)fprintf(stderr, "scatter-scale: %s\n", err_text(&e, r));
    return r ? 1 : 0;
}
