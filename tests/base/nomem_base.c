/* SPDX-License-Identifier: Apache-2.0 */
/* Every constructor of base with every allocation failing once. A step may succeed in spite of a failure (a map that
 * cannot grow goes on), but what it then holds must be right. */

#include "celeryc/base/arena.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/map.h"
#include "celeryc/base/num.h"
#include "celeryc/base/url.h"
#include "nomem.h"

#include <errno.h>

static int use_buf(void)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    CLEANUP(mem_free) char *taken = NULL;

    for (int i = 0; i < 100; i++)
        buf_appendf(&b, "%d-%s ", i, "text");
    base64_encode(&b, SLICE_LIT("some bytes"));
    hex_encode(&b, SLICE_LIT("some bytes"));
    if (buf_ok(&b))
        return -ENOMEM;
    taken = buf_take(&b);
    return taken ? 0 : -ENOMEM;
}

static int use_arena(void)
{
    CLEANUP(arena_free) struct arena *a = arena_new();

    if (!a)
        return -ENOMEM;
    for (int i = 0; i < 50; i++) {
        if (!arena_alloc(a, 1000) || !arena_printf(a, "%d", i) ||
            !arena_strdup(a, SLICE_LIT("abc")))
            return -ENOMEM;
    }
    return 0;
}

static int use_map(void)
{
    CLEANUP(map_free) struct map *m = map_new();
    char key[16];
    int value;

    if (!m)
        return -ENOMEM;
    for (int i = 0; i < 100; i++) {
        size_t len = (size_t)snprintf(key, sizeof(key), "%d", i);
        int r = map_set(m, (struct slice){key, len}, &value);

        if (r)
            return r;
        ASSERT(map_get(m, (struct slice){key, len}) == &value);
    }
    ASSERT(map_len(m) == 100);
    return 0;
}

static int use_url(void)
{
    CLEANUP(url_deinit) struct url u = {0};
    CLEANUP(mem_free) char *masked = NULL, *value = NULL;
    int r = url_parse("redis://us:pw@host:1/path?a=1&b=2", &u, NULL);

    if (r)
        return r;
    masked = url_masked("redis://us:pw@host:1/path?a=1&password=2");
    value = url_query(&u, "b");
    return masked && value ? 0 : -ENOMEM;
}

static int use_decoders(void)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    char digits[200];
    double d;
    int r = base64_decode(&b, SLICE_LIT("Zm9vYmFy"));

    if (r == 0)
        r = percent_decode(&b, SLICE_LIT("a%20b"));
    memset(digits, '1', sizeof(digits));
    if (r == 0)
        r = num_parse_f64((struct slice){digits, sizeof(digits)}, &d);
    return r;
}

int main(void)
{
    (void)nomem_sweep("buf", use_buf);
    (void)nomem_sweep("arena", use_arena);
    (void)nomem_sweep("map", use_map);
    (void)nomem_sweep("url", use_url);
    (void)nomem_sweep("decoders", use_decoders);
    return 0;
}
