/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a store by its URL and handing calls to its kind.
 *
 * A name never leaves its store: empty, "." and ".." components, a leading slash, backslashes and control bytes are
 * refused before any kind sees them. */

#include "celeryc/store/store.h"

#include "celeryc/base/codec.h"
#include "celeryc/store/store_priv.h"

#include <errno.h>
#include <strings.h>

#define NAME_MAX_BYTES 900 /* of S3's 1,024, so that a prefix fits as well */

struct store {
    char *url;  /* as given, without trailing slashes */
    char *root; /* file:// */
    struct s3 *s3;
};

struct store *store_close(struct store *s)
{
    if (!s)
        return NULL;
    s3_close(s->s3);
    free(s->root);
    free(s->url);
    free(s);
    return NULL;
}

/* "file:///dir", "file://localhost/dir": the decoded path without trailing slashes. */
static int file_root(const char *rest, char **ret_root, struct err *e)
{
    CLEANUP(buf_deinit) struct buf path = BUF_INIT;

    if (strncmp(rest, "localhost/", 10) == 0)
        rest += 9;
    if (*rest != '/')
        return err_set(e, -EINVAL,
                       "store file://%s: write an absolute path with three slashes, file:///dir",
                       rest);
    if (percent_decode(&path, slice_str(rest)))
        return -ENOMEM;
    if (memchr(path.data, '\0', path.len))
        return err_set(e, -EINVAL, "store file://%s: a NUL byte in the path", rest);
    while (path.len && path.data[path.len - 1] == '/')
        path.data[--path.len] = '\0';
    *ret_root = buf_take(&path);
    return *ret_root ? 0 : -ENOMEM;
}

static int open_kind(struct store *s, const char *url, struct err *e)
{
    size_t len = strlen(url);

    while (len && url[len - 1] == '/')
        len--;
    s->url = slice_dup((struct slice){url, len});
    if (!s->url)
        return -ENOMEM;
    if (strncasecmp(url, "file://", 7) == 0)
        return file_root(url + 7, &s->root, e);
    if (strncasecmp(url, "s3://", 5) == 0)
        return s3_open(url + 5, &s->s3, e);
    return err_set(e, -EINVAL, "store %s: expected s3://bucket/prefix or file:///dir", url);
}

int store_open(const char *url, struct store **ret_s, struct err *e)
{
    struct store *s = calloc(1, sizeof(*s));
    int code = s ? open_kind(s, url, e) : -ENOMEM;

    if (code) {
        store_close(s);
        return code;
    }
    *ret_s = s;
    return 0;
}

static bool name_is_safe(const char *name)
{
    size_t len = strlen(name);

    if (len == 0 || len > NAME_MAX_BYTES)
        return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f || name[i] == '\\')
            return false;
    for (const char *p = name;; p++) {
        size_t n = strcspn(p, "/");

        if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
            return false;
        p += n;
        if (!*p)
            return true;
    }
}

static int check_name(const struct store *s, const char *name, struct err *e)
{
    if (name_is_safe(name))
        return 0;
    return err_set(e, -EINVAL, "store %s: \"%s\" is no safe object name", s->url, name);
}

static int64_t deadline_or_default(int64_t deadline_ms)
{
    return deadline_ms > 0 ? deadline_ms : STORE_DEADLINE_MS;
}

int store_get(struct store *s, const char *name, int64_t deadline_ms, struct buf *dst,
              struct err *e)
{
    int code = check_name(s, name, e);

    if (code)
        return code;
    if (s->s3)
        return s3_get(s->s3, name, deadline_or_default(deadline_ms), dst, e);
    return file_get(s->root, name, dst, e);
}

int store_put(struct store *s, const char *name, struct slice bytes, const char *content_type,
              int64_t deadline_ms, struct err *e)
{
    int code = check_name(s, name, e);

    if (code)
        return code;
    if (s->s3)
        return s3_put(s->s3, name, bytes, content_type, deadline_or_default(deadline_ms), e);
    return file_put(s->root, name, bytes, e);
}

int store_delete(struct store *s, const char *name, int64_t deadline_ms, struct err *e)
{
    int code = check_name(s, name, e);

    if (code)
        return code;
    if (s->s3)
        return s3_delete(s->s3, name, deadline_or_default(deadline_ms), e);
    return file_delete(s->root, name, e);
}

const char *store_url(const struct store *s)
{
    return s->url;
}

char *store_object_url(const struct store *s, const char *name)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_appendf(&b, "%s/%s", s->url, name);
    return buf_take(&b);
}

int store_split(const char *object_url, char **ret_store_url, char **ret_name, struct err *e)
{
    CLEANUP(mem_free) char *url = NULL;
    CLEANUP(mem_free) char *name = NULL;
    const char *authority = strstr(object_url, "://"), *slash = strrchr(object_url, '/');

    if (!authority || slash <= authority + 2 || !slash[1])
        return err_set(
            e, -EINVAL,
            "%s: not the URL of an object (expected s3://bucket/name or file:///dir/name)",
            object_url);
    url = slice_dup((struct slice){object_url, (size_t)(slash - object_url)});
    name = slice_dup(slice_str(slash + 1));
    if (!url || !name)
        return -ENOMEM;
    if (!name_is_safe(name))
        return err_set(e, -EINVAL, "%s: not a safe object name", object_url);
    *ret_store_url = STEAL(url);
    *ret_name = STEAL(name);
    return 0;
}
