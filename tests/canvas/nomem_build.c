/* SPDX-License-Identifier: Apache-2.0 */
/* Building signatures with every allocation failing once: what is built is right, or says that memory ran out. */

#include "../base/nomem.h"
#include "celeryc/base/buf.h"

#include <celeryc/client.h>

#include <errno.h>

static struct celeryc_sig *sig(const char *name)
{
    return celeryc_signature(name, "[1, \"x\"]", "{\"k\": 1.0}");
}

/* Frees s. */
static int judge(struct celeryc_sig *s, const char *want)
{
    size_t len;
    const char *error = celeryc_sig_error(s), *json = celeryc_sig_json(s, &len);
    int r = 0;

    if (error)
        r = strstr(error, "out of memory") || strstr(error, "annot allocate") ? -ENOMEM : -EINVAL;
    else if (!strstr(json, want) || strlen(json) != len)
        r = -EINVAL;
    if (r == -EINVAL)
        (void)fprintf(stderr, "%s\n", error ? error : json);
    celeryc_sig_free(s);
    return r;
}

static int build_chord(void)
{
    struct celeryc_sig *members[] = {sig("a"), celeryc_map(sig("b"), "[1, [2]]")};
    struct celeryc_sig *steps[] = {celeryc_group(2, members), sig("c"), sig("d")};

    return judge(celeryc_chain(3, steps), "\"celery.chord\"");
}

static int change(void)
{
    struct celeryc_sig *s = celeryc_sig_link(sig("a"), sig("l"));

    s = celeryc_sig_link_error(s, sig("e"));
    s = celeryc_sig_set(celeryc_sig_immutable(s), "queue", "\"q\"");
    s = celeryc_sig_stamp(s, "owner", "\"ann\"");
    struct celeryc_sig *copy = celeryc_sig_copy(s);
    celeryc_sig_free(s);
    return judge(copy, "\"owner\": \"ann\", \"stamped_headers\": [\"owner\"]}");
}

static int read(void)
{
    static const char json[] = "{\"task\": \"t\\u00e9\", \"options\": {\"link\": []}, \"x\": 1}";

    return judge(celeryc_sig_from_json(json, sizeof(json) - 1), "\"x\": 1}");
}

int main(void)
{
    (void)nomem_sweep("building", build_chord);
    (void)nomem_sweep("changing", change);
    (void)nomem_sweep("reading", read);
    return 0;
}
