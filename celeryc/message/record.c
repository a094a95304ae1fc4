/* SPDX-License-Identifier: Apache-2.0 */
/* Result records: one JSON object for each task id, fields in the order in which Celery's backend writes them
 * (celery/backends/base.py _get_result_meta). task_id is always last and never missing: Python's waiters read it. */

#include "celeryc/message/record.h"

#include "celeryc/base/clock.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/message_priv.h"

#include <errno.h>

#define COMPRESSED_MARK "\0celery-compressed"

static void write_raw(struct buf *dst, const char *key, struct slice text, const char *otherwise)
{
    buf_append_str(dst, key);
    if (text.p)
        buf_append_slice(dst, text);
    else
        buf_append_str(dst, otherwise);
}

/* The fields of result_extended; stamps are fields of their own. */
static void write_extended(struct buf *dst, const struct record *r)
{
    struct json_iter it;

    buf_append_str(dst, ", \"name\": ");
    json_write_string_or_null(dst, r->name);
    write_raw(dst, ", \"args\": ", r->args, "null");
    write_raw(dst, ", \"kwargs\": ", r->kwargs, "null");
    buf_append_str(dst, ", \"worker\": ");
    json_write_string_or_null(dst, r->worker);
    buf_append_str(dst, ", \"retries\": ");
    json_write_i64(dst, r->retries);
    buf_append_str(dst, ", \"queue\": ");
    json_write_string_or_null(dst, r->queue);
    if (r->stamps.kind != JSON_K_OBJECT || json_len(r->stamps) == 0)
        return;
    write_raw(dst, ", \"stamped_headers\": ", r->stamped_headers.raw, "null");
    for (json_iter_init(&it, r->stamps); json_next(&it);) {
        struct json_iter name;

        for (json_iter_init(&name, r->stamped_headers); json_next(&name);) {
            if (name.val.kind != JSON_K_STRING || !slice_eq(name.val.raw, it.key.raw))
                continue;
            buf_append_str(dst, ", ");
            buf_append_slice(dst, it.key.raw);
            buf_append_str(dst, ": ");
            buf_append_slice(dst, it.val.raw);
            break;
        }
    }
}

int record_write(struct buf *dst, const struct record *r)
{
    char done[CLOCK_ISO_SIZE];

    buf_append_str(dst, "{\"status\": ");
    json_write_string(dst, slice_str(r->status));
    write_raw(dst, ", \"result\": ", r->result, "null");
    buf_append_str(dst, ", \"traceback\": ");
    json_write_string_or_null(dst, r->traceback);
    write_raw(dst, ", \"children\": ", r->children, "[]");
    buf_append_str(dst, ", \"date_done\": ");
    if (r->done_us) {
        clock_iso_format(r->done_us, done);
        json_write_string(dst, slice_str(done));
    } else {
        buf_append_str(dst, "null");
    }
    if (r->group_id.p) {
        buf_append_str(dst, ", \"group_id\": ");
        json_write_string(dst, r->group_id);
    }
    if (r->parent_id.p) {
        buf_append_str(dst, ", \"parent_id\": ");
        json_write_string(dst, r->parent_id);
    }
    if (r->extended)
        write_extended(dst, r);
    buf_append_str(dst, ", \"task_id\": ");
    json_write_string(dst, r->task_id);
    buf_append_char(dst, '}');
    return buf_ok(dst);
}

void record_write_exception(struct buf *dst, struct slice type, struct slice args,
                            struct slice module)
{
    buf_append_str(dst, "{\"exc_type\": ");
    json_write_string(dst, type);
    write_raw(dst, ", \"exc_message\": ", args, "[]");
    buf_append_str(dst, ", \"exc_module\": ");
    json_write_string_or_null(dst, module);
    buf_append_char(dst, '}');
}

void record_write_exception_repr(struct buf *dst, struct slice type, struct slice args)
{
    const char *dot = type.len ? memrchr(type.p, '.', type.len) : NULL;
    struct json_val v;
    struct json_iter it;
    bool first = true;

    if (dot) /* a nested class shows its own name only */
        type = (struct slice){dot + 1, (size_t)(type.p + type.len - dot - 1)};
    buf_append_slice(dst, type);
    buf_append_char(dst, '(');
    if (args.p && json_scan(args, &v, NULL) == 0) {
        for (json_iter_init(&it, v); json_next(&it); first = false) {
            buf_append_str(dst, first ? "" : ", ");
            json_write_python(dst, it.val);
        }
    }
    buf_append_char(dst, ')');
}

int record_inflate(struct arena *a, struct slice stored, struct slice *ret_text, struct err *e)
{
    const struct slice mark = {COMPRESSED_MARK, sizeof(COMPRESSED_MARK)}; /* with both zero bytes */
    struct slice rest, name;
    const char *end;

    if (stored.len < mark.len || memcmp(stored.p, mark.p, mark.len) != 0) {
        *ret_text = stored;
        return 0;
    }
    rest = (struct slice){stored.p + mark.len, stored.len - mark.len};
    end = memchr(rest.p, '\0', rest.len);
    if (!end)
        return err_set(e, -EINVAL, "compressed result without a compression name");
    name = (struct slice){rest.p, (size_t)(end - rest.p)};
    rest = (struct slice){end + 1, rest.len - name.len - 1};
    return message_inflate(a, name, rest, ret_text, e);
}

int record_parse(struct slice text, struct record_view *ret_v, struct err *e)
{
    struct json_val v;
    int r = json_scan(text, &v, e);

    if (r)
        return err_prefix(e, r, "result record");
    if (v.kind != JSON_K_OBJECT)
        return err_set(e, -EINVAL, "result record: not an object");
    if (json_get(v, "status").kind != JSON_K_STRING)
        return err_set(e, -EINVAL, "result record: no status");
    *ret_v = (struct record_view){
        .status = json_get(v, "status"),
        .result = json_get(v, "result"),
        .traceback = json_get(v, "traceback"),
        .date_done = json_get(v, "date_done"),
        .task_id = json_get(v, "task_id"),
        .children = json_get(v, "children"),
    };
    return 0;
}

bool record_ready(const struct record_view *v)
{
    static const char *const ready[] = {"SUCCESS", "FAILURE", "REVOKED"};

    for (size_t i = 0; i < ARRAY_SIZE(ready); i++) {
        if (v->status.kind == JSON_K_STRING && json_key_is(v->status, slice_str(ready[i])))
            return true;
    }
    return false;
}

bool record_succeeded(const struct record_view *v)
{
    return v->status.kind == JSON_K_STRING && json_key_is(v->status, SLICE_LIT("SUCCESS"));
}
