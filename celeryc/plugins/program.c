/* SPDX-License-Identifier: Apache-2.0 */
/* A program that sends a chord to whatever workers there are, and waits for what comes of it.
 *
 *     cc program.c $(pkg-config --cflags --libs celeryc) -o program
 *     ./program redis://localhost/0
 */

#include <celeryc/client.h>

#include <stdio.h>

static struct celeryc_sig *square_sums(void)
{
    struct celeryc_sig *members[] = {
        celeryc_signature("examples.add", "[1, 1]", NULL),
        celeryc_signature("examples.add", "[2, 2]", NULL),
    };
    return celeryc_chord(celeryc_group(2, members), celeryc_signature("examples.echo", NULL, NULL));
}

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : "redis://localhost/0";
    struct celeryc_client *client = celeryc_client_new(url, url, NULL);
    struct celeryc_sig *sums = square_sums();
    struct celeryc_result *result = celeryc_client_apply(client, sums, NULL);
    int code = 1;

    if (result && celeryc_result_wait(result, 30.0) == 0) {
        printf("%s %s\n", celeryc_result_state(result), celeryc_result_json(result, NULL));
        code = 0;
    } else {
        fprintf(stderr, "%s\n", celeryc_client_error(client));
    }
    celeryc_result_free(result);
    celeryc_sig_free(sums);
    celeryc_client_free(client);
    return code;
}
