/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Keys and certificates for tests of signed messages, made on the spot. */

#include "celeryc/base/util.h"

/* Writes folder/name.key and folder/store/name.crt (the folder store is made when it is not there): an RSA key, and a
 * certificate of it that is good for that many days, or was until that many days ago. */
void keys_make(const char *folder, const char *name, int days, const char *password);
