/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests do with the client library: one command a line on standard input, one JSON line each as the answer.
 *
 *     driver BROKER BACKEND [SETTINGS]
 *
 *     apply <signature>     -> tuple         (the result becomes the current one)
 *     result <id>           -> tuple
 *     wait <seconds>        -> {"code", "state", "json", "traceback"}
 *     state                 -> state
 *     forget                -> code
 */

#include <celeryc/client.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct celeryc_client *client;
static struct celeryc_result *result;

static void put_text(const char *s)
{
    if (!s) {
        printf("null");
        return;
    }
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            putchar('\\');
        if (*s == '\n')
            printf("\\n");
        else
            putchar(*s);
    }
    putchar('"');
}

static void tell_error(void)
{
    printf("{\"error\": ");
    put_text(celeryc_client_error(client));
    printf("}");
}

static void tell_result(void)
{
    if (result)
        printf("%s", celeryc_result_tuple(result));
    else
        tell_error();
}

static void apply(const char *json)
{
    struct celeryc_sig *s = celeryc_sig_from_json(json, strlen(json));

    celeryc_result_free(result);
    result = celeryc_client_apply(client, s, NULL);
    celeryc_sig_free(s);
    tell_result();
}

static void wait_for(const char *seconds)
{
    int code = celeryc_result_wait(result, atof(seconds));
    const char *json = celeryc_result_json(result, NULL);

    printf("{\"code\": \"%s\", \"state\": ", code == 0            ? "ok"
                                             : code == -ETIMEDOUT ? "timeout"
                                                                  : "error");
    put_text(code == 0 ? celeryc_result_state(result) : celeryc_client_error(client));
    printf(", \"json\": %s, \"traceback\": ", json ? json : "null");
    put_text(celeryc_result_traceback(result));
    printf("}");
}

int main(int argc, char **argv)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;

    client = celeryc_client_new(argc > 1 ? argv[1] : NULL, argc > 2 && *argv[2] ? argv[2] : NULL,
                                argc > 3 ? argv[3] : NULL);
    while ((len = getline(&line, &cap, stdin)) > 0) {
        line[len - 1] = '\0';
        if (!strncmp(line, "apply ", 6))
            apply(line + 6);
        else if (!strncmp(line, "wait ", 5))
            wait_for(line + 5);
        else if (!strcmp(line, "state"))
            put_text(celeryc_result_state(result));
        else if (!strcmp(line, "forget"))
            printf("%d", celeryc_result_forget(result));
        else if (!strncmp(line, "result ", 7)) {
            celeryc_result_free(result);
            result = celeryc_client_result(client, line + 7);
            tell_result();
        }
        putchar('\n');
        fflush(stdout);
    }
    celeryc_result_free(result);
    celeryc_client_free(client);
    free(line);
    return 0;
}
