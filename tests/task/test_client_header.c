/* SPDX-License-Identifier: Apache-2.0 */
/* The client's header first and alone, in strict C11. */

#include <celeryc/client.h>

struct celeryc_sig *client_header_compiles(void);

struct celeryc_sig *client_header_compiles(void)
{
    struct celeryc_sig *members[] = {celeryc_signature("tasks.add", "[1, 1]", NULL)};
    return celeryc_chord(celeryc_group(1, members), celeryc_signature("tasks.tsum", NULL, NULL));
}
