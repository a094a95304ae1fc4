/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as compressed data, the first of them says of which kind; and with its high bit any bytes
 * compressed and inflated again. */

#include "celeryc/base/limits.h"
#include "celeryc/message/message_priv.h"
#include "celeryc/message/wire_priv.h"
#include "fuzz.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"zlib", "bzip2", "xz", "zstd", "brotli"};
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf packed = BUF_INIT;
    struct slice rest = {(const char *)data + 1, size - 1}, text;
    struct err e = ERR_INIT;
    const char *name;
    int r;

    if (size == 0)
        return 0;
    name = names[data[0] % ARRAY_SIZE(names)];
    r = message_inflate(a, slice_str(name), rest, &text, &e);
    ASSERT(r == -ENOMEM || (r == 0 && text.len <= LIMIT_MESSAGE_BYTES) ||
           (r == -EINVAL && e.text[0]));
    if (!(data[0] & 0x80)) /* some of them take a hundred megabytes to compress anything */
        return 0;
    ASSERT(compression_write(&packed, compression_type(slice_str(name)), rest) == 0);
    ASSERT(message_inflate(a, slice_str(name), buf_slice(&packed), &text, &e) == 0);
    ASSERT(slice_eq(text, rest));
    return 0;
}
