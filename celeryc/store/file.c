/* SPDX-License-Identifier: Apache-2.0 */
/* Objects as files below a directory.
 *
 * A write goes to a hidden temporary file in the same directory, which is synced and renamed over the name, and then
 * the directory is synced: a reader, or the machine after a power cut, has the whole object or none of it. Folders of
 * a name are made as needed, and the root itself, but not what is above it (a missing mount is an error, not a folder
 * on the wrong disk). */

#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/store/store_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

#define OWNED_FD __attribute__((cleanup(close_fd)))

static int fail(struct err *e, int err, const char *doing, const char *path)
{
    int code = err ? -err : -EIO;

    if (err == ENOENT)
        code = STORE_E_NOT_FOUND;
    else if (err == EACCES || err == EPERM || err == EROFS)
        code = STORE_E_DENIED;
    else if (err == EIO || err == ESTALE || err == ETIMEDOUT || err == EAGAIN)
        code = STORE_E_TRANSIENT;
    return err_set(e, code, "cannot %s %s: %s", doing, path, err_errno(err));
}

static char *join(const char *root, const char *name, const char *suffix)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_appendf(&b, "%s/%s%s", root, name, suffix);
    return buf_take(&b);
}

static int read_all(int fd, size_t size, const char *path, struct buf *dst, struct err *e)
{
    size_t start = dst->len;

    buf_reserve(dst, size + 1);
    for (;;) {
        ssize_t n;

        buf_reserve(dst, 4096);
        if (dst->failed)
            return -ENOMEM;
        n = read(fd, dst->data + dst->len, dst->cap - dst->len - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(e, errno, "read", path);
        dst->len += (size_t)n;
        dst->data[dst->len] = '\0';
        if (dst->len - start > LIMIT_OBJECT_BYTES)
            return err_set(e, -E2BIG, "%s: larger than %u MiB", path, LIMIT_OBJECT_BYTES >> 20);
        if (n == 0)
            return 0;
    }
}

int file_get(const char *root, const char *name, struct buf *dst, struct err *e)
{
    CLEANUP(mem_free) char *path = join(root, name, "");
    OWNED_FD int fd = -1;
    size_t start = dst->len;
    struct stat st;
    int code;

    if (!path)
        return -ENOMEM;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOTDIR ? fail(e, ENOENT, "read", path) : fail(e, errno, "read", path);
    if (fstat(fd, &st))
        return fail(e, errno, "read", path);
    if (!S_ISREG(st.st_mode))
        return err_set(e, -EINVAL, "%s: not a regular file", path);
    if ((uint64_t)st.st_size > LIMIT_OBJECT_BYTES)
        return err_set(e, -E2BIG, "%s: larger than %u MiB", path, LIMIT_OBJECT_BYTES >> 20);
    code = read_all(fd, (size_t)st.st_size, path, dst, e);
    if (code && !dst->failed)
        dst->len = start;
    return code;
}

static int sync_dir(const char *path, struct err *e)
{
    OWNED_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || fsync(fd))
        return fail(e, errno, "sync the directory", path);
    return 0;
}

/* Makes one directory; a fresh one is synced into its parent. */
static int make_dir(const char *path, const char *parent, struct err *e)
{
    if (mkdir(path, 0777) == 0)
        return sync_dir(parent, e);
    if (errno == EEXIST)
        return 0;
    if (errno == ENOENT)
        return err_set(e, -ENOENT,
                       "the directory %s does not exist: create it, or correct the store URL",
                       parent);
    return fail(e, errno, "create the directory", path);
}

static int parent_of(const char *path, char **ret_parent)
{
    const char *slash = strrchr(path, '/');

    *ret_parent =
        slice_dup(slash == path ? SLICE_LIT("/") : (struct slice){path, (size_t)(slash - path)});
    return *ret_parent ? 0 : -ENOMEM;
}

/* The root and every folder of name below it; gives the folder that holds the object. */
static int make_dirs(const char *root, const char *name, char **ret_dir, struct err *e)
{
    CLEANUP(mem_free) char *parent = NULL;
    CLEANUP(mem_free) char *dir = slice_dup(slice_str(*root ? root : "/"));
    int code;

    if (!dir)
        return -ENOMEM;
    code = parent_of(dir, &parent);
    if (!code && *root)
        code = make_dir(dir, parent, e);
    for (const char *p = name; !code && (p = strchr(p, '/')); p++) {
        CLEANUP(buf_deinit) struct buf next = BUF_INIT;

        buf_appendf(&next, "%s/%.*s", root, (int)(p - name), name);
        free(parent);
        parent = STEAL(dir);
        dir = buf_take(&next);
        code = dir ? make_dir(dir, parent, e) : -ENOMEM;
    }
    if (code)
        return code;
    *ret_dir = STEAL(dir);
    return 0;
}

static int write_all(int fd, struct slice bytes, const char *path, struct err *e)
{
    while (bytes.len) {
        ssize_t n = write(fd, bytes.p, bytes.len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(e, errno, "write", path);
        bytes.p += n;
        bytes.len -= (size_t)n;
    }
    return fsync(fd) ? fail(e, errno, "sync", path) : 0;
}

/* ".<16 hex digits>.tmp" next to the object. */
static char *temporary_name(const char *dir)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    unsigned char id[8];

    random_bytes(id, sizeof(id));
    buf_appendf(&b, "%s/.", dir);
    hex_encode(&b, (struct slice){(char *)id, sizeof(id)});
    buf_append_str(&b, ".tmp");
    return buf_take(&b);
}

/* Opens a temporary file next to the object, making the folders of its name first. A delete of the folder's last other
 * object may take the folder away in between: then once more. */
static int open_temporary(const char *root, const char *name, char **ret_temp, char **ret_dir,
                          int *ret_fd, struct err *e)
{
    for (int attempt = 0;; attempt++) {
        CLEANUP(mem_free) char *dir = NULL;
        CLEANUP(mem_free) char *temp = NULL;
        int code = make_dirs(root, name, &dir, e), fd;

        if (code)
            return code;
        temp = temporary_name(dir);
        if (!temp)
            return -ENOMEM;
        fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno == ENOENT && attempt < 3)
            continue;
        if (fd < 0)
            return fail(e, errno, "write to the directory", dir);
        *ret_fd = fd;
        *ret_temp = STEAL(temp);
        *ret_dir = STEAL(dir);
        return 0;
    }
}

int file_put(const char *root, const char *name, struct slice bytes, struct err *e)
{
    CLEANUP(mem_free) char *path = join(root, name, "");
    CLEANUP(mem_free) char *dir = NULL;
    CLEANUP(mem_free) char *temp = NULL;
    OWNED_FD int fd = -1;
    int code;

    if (!path)
        return -ENOMEM;
    code = open_temporary(root, name, &temp, &dir, &fd, e);
    if (code || !temp || !dir)
        return code;
    code = write_all(fd, bytes, temp, e);
    if (!code && rename(temp, path))
        code = fail(e, errno, "write", path);
    if (code) {
        (void)unlink(temp);
        return code;
    }
    return sync_dir(dir, e);
}

/* Folders that a delete left empty go as well: in a bucket there would be none. path is cut. */
static void remove_empty_dirs(const char *root, char *path)
{
    size_t root_len = strlen(root);

    for (;;) {
        char *slash = strrchr(path, '/');

        if (!slash || (size_t)(slash - path) <= root_len)
            return;
        *slash = '\0';
        if (rmdir(path))
            return;
    }
}

int file_delete(const char *root, const char *name, struct err *e)
{
    CLEANUP(mem_free) char *path = join(root, name, "");

    if (!path)
        return -ENOMEM;
    if (unlink(path) && errno != ENOENT && errno != ENOTDIR)
        return fail(e, errno, "delete", path);
    remove_empty_dirs(root, path);
    return 0; /* deleting what is not there is done, as in S3 */
}
