/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Makes keys and certificates for a test, in a folder: <name>.pem and <name>.key. */

#include <stdbool.h>

struct cert {
    const char *name;
    const char *issuer; /* the name of a certificate made before; NULL: signs itself, a CA */
    const char
        *names; /* as OpenSSL writes subjectAltName, "DNS:localhost,IP:127.0.0.1"; NULL: none */
    bool expired;
    const char *password; /* of the key; NULL: in clear */
    const char *subject;  /* NULL: as the name */
};

void certs_make(const char *dir, const struct cert *c);
void certs_remove(const char *dir); /* the folder and all in it */

int certs_free_port(void); /* on the loopback */
