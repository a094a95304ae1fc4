/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The client's end of one TLS session, without a socket: bytes in, bytes out. Private to the folder. */

#include "celeryc/base/buf.h"
#include "celeryc/redis/endpoint.h"

struct tls;

/* host: whom the certificate must name, a DNS name or an address. Reads the files of o now. 0; -EINVAL with a text that
 * names the option to mend; -ENOMEM. */
int tls_new(const struct redis_tls *o, const char *host, struct tls **ret_t,
            struct err *e) WARN_UNUSED;
struct tls *tls_free(struct tls *t);
DEFINE_CLEANUP(struct tls, tls_free)

/* Takes bytes from the peer and goes on with the handshake. 0; -EPROTO with a text that names the fix; -ENOMEM. */
int tls_feed(struct tls *t, const char *p, size_t len, struct err *e) WARN_UNUSED;
bool tls_is_open(const struct tls *t); /* the handshake is done */

/* Bytes of the peer in clear: *ret_n of at most cap; 0 bytes: no more for now. -EPIPE: the peer has closed; -EPROTO. */
int tls_read(struct tls *t, char *dst, size_t cap, size_t *ret_n, struct err *e) WARN_UNUSED;

/* Encrypts all of s. Only when open. 0, -EPROTO, -ENOMEM. */
int tls_write(struct tls *t, struct slice s, struct err *e) WARN_UNUSED;

/* Appends what is to be sent to the peer by now. */
void tls_take_output(struct tls *t, struct buf *dst);
