/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz target over the files of a folder, so that every corpus is an ordinary test. */

#include "fuzz.h"

#include <dirent.h>

static int run_file(const char *folder, const char *name)
{
    CLEANUP(buf_deinit) struct buf data = BUF_INIT;
    char path[4096], chunk[4096];
    uint8_t *exact;
    size_t n;
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    f = fopen(path, "rb");
    if (!f)
        return 1;
    while ((n = fread(chunk, 1, sizeof(chunk), f)) > 0)
        buf_append(&data, chunk, n);
    (void)fclose(f);
    /* An allocation of just that size: a read behind the end is seen. */
    exact = malloc(data.len ? data.len : 1);
    if (!exact)
        return 1;
    if (data.len)
        memcpy(exact, data.data, data.len);
    (void)LLVMFuzzerTestOneInput(exact, data.len);
    free(exact);
    return 0;
}

int main(int argc, char **argv)
{
    size_t n = 0;
    struct dirent *entry;
    DIR *dir;

    if (argc != 2 || !(dir = opendir(argv[1])))
        return fprintf(stderr, "usage: %s CORPUS-FOLDER\n", argv[0]), 2;
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        if (run_file(argv[1], entry->d_name))
            return fprintf(stderr, "cannot read %s\n", entry->d_name), 1;
        n++;
    }
    (void)closedir(dir);
    (void)printf("%zu inputs\n", n);
    return n ? 0 : 1;
}
