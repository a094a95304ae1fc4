/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: a 16-byte header and a body. The length is checked against LIMIT_FRAME_BYTES before anything is allocated. */

#include "celeryc/base/limits.h"
#include "celeryc/pool/proto.h"

#include <errno.h>

void frame_header(unsigned char dst[FRAME_HEADER_SIZE], enum frame_type type, uint64_t id,
                  size_t body_len)
{
    for (int i = 0; i < 4; i++)
        dst[i] = (unsigned char)(body_len >> 8 * i);
    dst[4] = (unsigned char)type;
    dst[5] = POOL_PROTO_VERSION;
    dst[6] = dst[7] = 0;
    for (int i = 0; i < 8; i++)
        dst[8 + i] = (unsigned char)(id >> 8 * i);
}

size_t frame_begin(struct buf *dst, enum frame_type type, uint64_t id)
{
    unsigned char header[FRAME_HEADER_SIZE];
    size_t at = dst->len;
    frame_header(header, type, id, 0);
    buf_append(dst, header, sizeof header);
    return at;
}

void frame_end(struct buf *dst, size_t at)
{
    if (dst->failed)
        return;
    size_t len = dst->len - at - FRAME_HEADER_SIZE;
    if (len > LIMIT_FRAME_BYTES) {
        dst->failed = true;
        return;
    }
    for (int i = 0; i < 4; i++)
        dst->data[at + (size_t)i] = (char)(len >> 8 * i);
}

int frame_parse(struct slice bytes, struct frame *ret_f, size_t *ret_size)
{
    *ret_size = 0;
    if (bytes.len < FRAME_HEADER_SIZE)
        return FRAME_E_MORE;
    struct cursor c = cursor_init((struct slice){bytes.p, FRAME_HEADER_SIZE});
    uint32_t len = cursor_u32(&c);
    uint8_t type = cursor_u8(&c), version = cursor_u8(&c);
    (void)cursor_take(&c, 2);
    uint64_t id = cursor_u64(&c);
    if (version != POOL_PROTO_VERSION || len > LIMIT_FRAME_BYTES)
        return -EPROTO;
    *ret_size = FRAME_HEADER_SIZE + (size_t)len;
    if (bytes.len < *ret_size)
        return FRAME_E_MORE;
    *ret_f = (struct frame){type, id, {bytes.p + FRAME_HEADER_SIZE, len}};
    return 0;
}
