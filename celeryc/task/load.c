/* SPDX-License-Identifier: Apache-2.0 */
/* Plug-ins: dlopen, and the tasks that their constructors register.
 *
 * A constructor runs inside dlopen and cannot report an error, so celeryc_task_register only notes the task; the load
 * that is under way picks up the notes whose struct lies inside the plug-in's image. The notes are kept: loading the
 * same file into a second table finds them again although its constructors do not run twice. This list is the one
 * piece of process-wide state here, for the ABI leaves no place to hand a table to a constructor; plug-ins are loaded
 * before any thread starts. Plug-ins are never unloaded. */

#include "celeryc/task/registry.h"

#include "celeryc/task/registry_priv.h"

#include <celeryc/client.h>

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <unistd.h>

struct note {
    const struct celeryc_task *task;
    size_t size;
    int abi;
};

static struct {
    struct note *notes;
    size_t len, cap;
    bool failed; /* out of memory in a constructor */
} noted;

/* dlopen'd code refers to the public API only through its own undefined symbols: this table makes the linker take
 * every one of them into each program that can load a plug-in. */
#define API_FUNCTION(name) (void (*)(void)) name

__attribute__((used)) static void (*const api[])(void) = {
    API_FUNCTION(celeryc_task_register),
    API_FUNCTION(celeryc_args),
    API_FUNCTION(celeryc_args_error),
    API_FUNCTION(celeryc_args_json),
    API_FUNCTION(celeryc_kwargs_json),
    API_FUNCTION(celeryc_task_id),
    API_FUNCTION(celeryc_task_name),
    API_FUNCTION(celeryc_hostname),
    API_FUNCTION(celeryc_retries),
    API_FUNCTION(celeryc_redelivered),
    API_FUNCTION(celeryc_should_stop),
    API_FUNCTION(celeryc_return_none),
    API_FUNCTION(celeryc_return_int),
    API_FUNCTION(celeryc_return_double),
    API_FUNCTION(celeryc_return_bool),
    API_FUNCTION(celeryc_return_string),
    API_FUNCTION(celeryc_return_json),
    API_FUNCTION((celeryc_raise)),
    API_FUNCTION((celeryc_raise_json)),
    API_FUNCTION((celeryc_retry)),
    API_FUNCTION(celeryc_raise_at),
    API_FUNCTION(celeryc_raise_json_at),
    API_FUNCTION(celeryc_retry_at),
    API_FUNCTION(celeryc_retry_cause),
    API_FUNCTION(celeryc_retry_max),
    API_FUNCTION(celeryc_backoff),
    API_FUNCTION(celeryc_ignore),
    API_FUNCTION(celeryc_reject),
    API_FUNCTION(celeryc_update_state),
    API_FUNCTION(celeryc_send),
    API_FUNCTION(celeryc_log),
    API_FUNCTION(celeryc_root_id),
    API_FUNCTION(celeryc_parent_id),
    API_FUNCTION(celeryc_group_id),
    API_FUNCTION(celeryc_priority),
    API_FUNCTION(celeryc_time_limit),
    API_FUNCTION(celeryc_soft_time_limit),
    API_FUNCTION(celeryc_request),
    API_FUNCTION(celeryc_retry_args),
    API_FUNCTION(celeryc_retry_option),
    API_FUNCTION(celeryc_signature),
    API_FUNCTION(celeryc_sig_from_json),
    API_FUNCTION(celeryc_sig_copy),
    API_FUNCTION(celeryc_sig_free),
    API_FUNCTION(celeryc_chain),
    API_FUNCTION(celeryc_group),
    API_FUNCTION(celeryc_chord),
    API_FUNCTION(celeryc_map),
    API_FUNCTION(celeryc_starmap),
    API_FUNCTION(celeryc_chunks),
    API_FUNCTION(celeryc_sig_immutable),
    API_FUNCTION(celeryc_sig_set),
    API_FUNCTION(celeryc_sig_link),
    API_FUNCTION(celeryc_sig_link_error),
    API_FUNCTION(celeryc_sig_stamp),
    API_FUNCTION(celeryc_sig_json),
    API_FUNCTION(celeryc_sig_error),
    API_FUNCTION(celeryc_apply),
    API_FUNCTION(celeryc_replace),
    API_FUNCTION(celeryc_add_to_chord),
};

void celeryc_task_register(const struct celeryc_task *task, size_t size, int abi)
{
    if (noted.len == noted.cap) {
        size_t cap = noted.cap ? noted.cap * 2 : 32;
        struct note *grown = reallocarray(noted.notes, cap, sizeof *grown);
        if (!grown) {
            noted.failed = true;
            return;
        }
        noted.notes = grown;
        noted.cap = cap;
    }
    noted.notes[noted.len++] = (struct note){task, size, abi};
}

static int take_note(struct task_registry *r, const struct note *n, const char *path, struct err *e)
{
    if (n->abi > CELERYC_ABI)
        return err_set(
            e, -EINVAL,
            "plug-in %s was built for ABI %d of celeryc, this one has %d: rebuild it with "
            "this version's headers, or install a newer celeryc",
            path, n->abi, CELERYC_ABI);
    if (n->abi < 1 || !n->task)
        return err_set(e, -EINVAL, "plug-in %s registers a task with ABI %d: rebuild it", path,
                       n->abi);
    /* A plug-in of an older header knows fewer options: the missing ones are zero, which is their default. */
    struct celeryc_task t = {0};
    memcpy(&t, n->task, MIN(n->size, sizeof t));
    int rc = task_registry_insert(r, &t, NULL, NULL, path, e);
    return rc == -EINVAL ? err_prefix(e, rc, "plug-in %s", path) : rc;
}

static int take_notes(struct task_registry *r, void *handle, const char *path, struct err *e)
{
    struct link_map *map = NULL;
    if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0)
        return err_set(e, -EINVAL, "plug-in %s is not known to the loader", path);
    for (size_t i = 0; i < noted.len; i++) {
        Dl_info info;
        struct link_map *owner = NULL;
        if (!dladdr1(noted.notes[i].task, &info, (void **)&owner, RTLD_DL_LINKMAP) || owner != map)
            continue;
        int rc = take_note(r, &noted.notes[i], path, e);
        if (rc < 0)
            return rc;
    }
    return noted.failed ? -ENOMEM : 0;
}

static bool has_suffix(const char *s, const char *suffix)
{
    size_t len = strlen(s), n = strlen(suffix);
    return len >= n && str_eq(s + len - n, suffix);
}

/* The file to open for a name given with -A. A name without a slash means the working directory, never the library
 * path. NULL when out of memory; ret_found says whether it is there. */
static char *find_file(const char *path, bool *ret_found)
{
    struct buf b = BUF_INIT;
    if (!strchr(path, '/'))
        buf_append_str(&b, "./");
    buf_append_str(&b, path);
    *ret_found = !b.failed && access(b.data, F_OK) == 0;
    if (!*ret_found && !strchr(path, '/') && !has_suffix(path, ".so")) {
        size_t len = b.len;
        buf_append_str(&b, ".so");
        *ret_found = !b.failed && access(b.data, F_OK) == 0;
        if (!*ret_found && !b.failed)
            b.data[b.len = len] = '\0';
    }
    return buf_take(&b);
}

int task_registry_load(struct task_registry *r, const char *path, struct err *e)
{
    if (!path || !*path)
        return err_set(e, -ENOENT, "the name of a plug-in is empty: give the path of a .so file");
    bool found;
    CLEANUP(mem_free) char *file = find_file(path, &found);
    if (!file)
        return -ENOMEM;
    if (!found)
        return err_set(e, -ENOENT, "plug-in %s not found: give the path of a .so file with -A",
                       file);
    void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *why = dlerror(); /* NOLINT(concurrency-mt-unsafe): one thread yet */
        const char *fix = strstr(why, "undefined symbol")
                              ? "rebuild it with this version's headers"
                              : "give a shared object built for this machine (cc -shared -fPIC)";
        return err_set(e, -EINVAL, "plug-in %s cannot be loaded: %s: %s", file, why, fix);
    }
    return take_notes(r, handle, file, e);
}
