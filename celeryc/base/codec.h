/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Small encodings: base64, hex, percent, UUID4, random bytes. */

#include "celeryc/base/buf.h"

void base64_encode(struct buf *dst, struct slice src);
/* Strict RFC 4648 with padding, white space refused. 0, -EINVAL, -ENOMEM. Appends to dst. */
int base64_decode(struct buf *dst, struct slice src) WARN_UNUSED;

/* The same into memory of at least BASE64_DECODED_MAX(src.len) bytes. lax: as Python's b64decode reads it, which kombu
 * uses: bytes outside the alphabet are skipped, text after the padding is ignored, only wrong padding is refused.
 * 0 or -EINVAL; dst may have been written to all the same. */
#define BASE64_DECODED_MAX(len) ((len) / 4 * 3 + 3)
int base64_decode_to(char *dst, struct slice src, bool lax, size_t *ret_len) WARN_UNUSED;

void hex_encode(struct buf *dst, struct slice src);

#define UUID_TEXT_SIZE 37
void uuid4_text(char dst[UUID_TEXT_SIZE]); /* lower case, NUL-terminated */
void random_bytes(void *dst, size_t len);  /* getrandom(2); never fails on Linux >= 3.17 */

int percent_decode(struct buf *dst,
                   struct slice src) WARN_UNUSED; /* %zz is kept as it is, as urllib does */
