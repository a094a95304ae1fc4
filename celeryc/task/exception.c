/* SPDX-License-Identifier: Apache-2.0 */
/* Python exceptions by name: which module a class lives in, and tracebacks that Python tools can read.
 *
 * A reader looks the class up in an imported module and otherwise makes a class of that name up, so a wrong module
 * costs the real class, and a name that is in the module but no exception makes the reader refuse. Hence "builtins"
 * is used for true built-in exceptions only, and not for the few whose constructor does not take one text. */

#include "celeryc/base/limits.h"
#include "celeryc/message/json.h"
#include "celeryc/task/call_priv.h"

#include <errno.h>

#define MODULE_UNKNOWN "celeryc.errors"

static const struct {
    const char *type, *base;
} builtin_exceptions[] = {
    {"ArithmeticError", "Exception"},
    {"AssertionError", "Exception"},
    {"AttributeError", "Exception"},
    {"BaseException", NULL},
    {"BlockingIOError", "OSError"},
    {"BrokenPipeError", "ConnectionError"},
    {"BufferError", "Exception"},
    {"BytesWarning", "Warning"},
    {"ChildProcessError", "OSError"},
    {"ConnectionAbortedError", "ConnectionError"},
    {"ConnectionError", "OSError"},
    {"ConnectionRefusedError", "ConnectionError"},
    {"ConnectionResetError", "ConnectionError"},
    {"DeprecationWarning", "Warning"},
    {"EOFError", "Exception"},
    {"EncodingWarning", "Warning"},
    {"EnvironmentError", "OSError"},
    {"Exception", "BaseException"},
    {"FileExistsError", "OSError"},
    {"FileNotFoundError", "OSError"},
    {"FloatingPointError", "ArithmeticError"},
    {"FutureWarning", "Warning"},
    {"GeneratorExit", "BaseException"},
    {"IOError", "OSError"},
    {"ImportError", "Exception"},
    {"ImportWarning", "Warning"},
    {"IndentationError", "SyntaxError"},
    {"IndexError", "LookupError"},
    {"InterruptedError", "OSError"},
    {"IsADirectoryError", "OSError"},
    {"KeyError", "LookupError"},
    {"KeyboardInterrupt", "BaseException"},
    {"LookupError", "Exception"},
    {"MemoryError", "Exception"},
    {"ModuleNotFoundError", "ImportError"},
    {"NameError", "Exception"},
    {"NotADirectoryError", "OSError"},
    {"NotImplementedError", "RuntimeError"},
    {"OSError", "Exception"},
    {"OverflowError", "ArithmeticError"},
    {"PendingDeprecationWarning", "Warning"},
    {"PermissionError", "OSError"},
    {"ProcessLookupError", "OSError"},
    {"PythonFinalizationError", "RuntimeError"},
    {"RecursionError", "RuntimeError"},
    {"ReferenceError", "Exception"},
    {"ResourceWarning", "Warning"},
    {"RuntimeError", "Exception"},
    {"RuntimeWarning", "Warning"},
    {"StopAsyncIteration", "Exception"},
    {"StopIteration", "Exception"},
    {"SyntaxError", "Exception"},
    {"SyntaxWarning", "Warning"},
    {"SystemError", "Exception"},
    {"SystemExit", "BaseException"},
    {"TabError", "IndentationError"},
    {"TimeoutError", "OSError"},
    {"TypeError", "Exception"},
    {"UnboundLocalError", "NameError"},
    {"UnicodeError", "ValueError"},
    {"UnicodeWarning", "Warning"},
    {"UserWarning", "Warning"},
    {"ValueError", "Exception"},
    {"Warning", "Exception"},
    {"ZeroDivisionError", "ArithmeticError"},
};

static const struct {
    const char *type, *module;
} celery_exceptions[] = {
    {"EncodeError", "kombu.exceptions"},
    {"DecodeError", "kombu.exceptions"},
    {"ContentDisallowed", "kombu.exceptions"},
    {"OperationalError", "kombu.exceptions"},
    {"SoftTimeLimitExceeded", "billiard.exceptions"},
    {"TimeLimitExceeded", "billiard.exceptions"},
    {"WorkerLostError", "billiard.exceptions"},
    {"Ignore", "celery.exceptions"},
    {"ImproperlyConfigured", "celery.exceptions"},
    {"MaxRetriesExceededError", "celery.exceptions"},
    {"NotRegistered", "celery.exceptions"},
    {"Reject", "celery.exceptions"},
    {"Retry", "celery.exceptions"},
    {"TaskRevokedError", "celery.exceptions"},
};

static bool is_builtin(struct slice type)
{
    for (size_t i = 0; i < ARRAY_SIZE(builtin_exceptions); i++)
        if (slice_eq_str(type, builtin_exceptions[i].type))
            return true;
    return false;
}

/* The class that a built-in exception is derived from; NULL for the root and for others. */
static const char *base_of(struct slice type)
{
    for (size_t i = 0; i < ARRAY_SIZE(builtin_exceptions); i++)
        if (slice_eq_str(type, builtin_exceptions[i].type))
            return builtin_exceptions[i].base;
    return NULL;
}

/* Is one of the bases of x what stands in a list: a bare name for a built-in class, or one with its module? Of classes
 * that are not built in we know that they are exceptions. */
static bool is_instance(const struct exception *x, struct slice name)
{
    bool builtin = slice_eq_str(x->module, "builtins");
    if (slice_eq_str(name, "IOError") || slice_eq_str(name, "EnvironmentError"))
        name = SLICE_LIT("OSError"); /* old names of that class */
    size_t module = x->module.len;
    if (slice_eq_str(name, "*"))
        return true;
    if (name.len == module + 1 + x->type.len && name.p[module] == '.' &&
        memcmp(name.p, x->module.p, module) == 0 &&
        memcmp(name.p + module + 1, x->type.p, x->type.len) == 0)
        return true;
    if (!builtin)
        return slice_eq(name, x->type) || slice_eq_str(name, "Exception") ||
               slice_eq_str(name, "BaseException");
    for (struct slice at = x->type; at.p; at = slice_str(base_of(at)))
        if (slice_eq(name, at))
            return true;
    return false;
}

bool exception_matches(const struct exception *x, const char *list)
{
    while (list && *list) {
        list += strspn(list, ", ");
        size_t len = strcspn(list, ", ");
        if (len > 0 && is_instance(x, (struct slice){list, len}))
            return true;
        list += len;
    }
    return false;
}

static struct slice module_of(struct slice type)
{
    if (is_builtin(type))
        return SLICE_LIT("builtins");
    for (size_t i = 0; i < ARRAY_SIZE(celery_exceptions); i++)
        if (slice_eq_str(type, celery_exceptions[i].type))
            return slice_str(celery_exceptions[i].module);
    return SLICE_LIT(MODULE_UNKNOWN);
}

static struct slice keep(struct arena *a, struct slice s)
{
    return (struct slice){arena_strdup(a, s), s.len};
}

int exception_set(struct exception *ret_x, struct arena *a, struct slice type, struct slice args)
{
    if (type.len == 0)
        type = SLICE_LIT("Exception");
    const char *dot = memrchr(type.p, '.', type.len);
    struct exception x = {.args = keep(a, args)};
    if (dot && dot > type.p && dot + 1 < type.p + type.len) {
        x.module = keep(a, (struct slice){type.p, (size_t)(dot - type.p)});
        x.type = keep(a, (struct slice){dot + 1, (size_t)(type.p + type.len - dot - 1)});
        if (x.module.p && x.type.p && slice_eq_str(x.module, "builtins") && !is_builtin(x.type))
            x.module = SLICE_LIT(MODULE_UNKNOWN);
    } else {
        x.module = module_of(type);
        x.type = keep(a, type);
    }
    if (!x.module.p || !x.type.p || !x.args.p)
        return -ENOMEM;
    *ret_x = x;
    return 0;
}

int exception_set_text(struct exception *ret_x, struct arena *a, const char *type,
                       struct slice text)
{
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    buf_append_char(&args, '[');
    json_write_string(&args, text);
    buf_append_char(&args, ']');
    if (buf_ok(&args) < 0)
        return -ENOMEM;
    return exception_set(ret_x, a, slice_str(type), buf_slice(&args));
}

/* str(exception): nothing, the one argument's own text (a KeyError's as repr), or the tuple. */
static void write_message(struct buf *dst, const struct exception *x)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf shown = BUF_INIT;
    struct json_val args;
    struct err e = ERR_INIT;
    struct slice text;
    if (!a || json_scan(x->args, &args, &e) < 0 || json_len(args) == 0)
        return;
    struct json_val first = json_at(args, 0);
    if (json_len(args) > 1)
        record_write_exception_repr(&shown, SLICE_LIT(""), x->args);
    else if (first.kind != JSON_K_STRING || slice_eq_str(x->type, "KeyError") ||
             json_string(a, first, &text) < 0)
        json_write_python(&shown, first);
    else
        buf_append_slice(&shown, text);
    if (buf_ok(&shown) < 0)
        return;
    text = buf_slice(&shown);
    buf_append_str(dst, ": ");
    buf_append_slice(dst, (struct slice){text.p, MIN(text.len, LIMIT_TRACEBACK_BYTES)});
}

/* The form is what traceback.format_exception gives and tblib parses: at least one File line. */
void exception_write_traceback(struct buf *dst, const struct exception *x,
                               const struct place *place, const char *task, const char *file)
{
    buf_append_str(dst, "Traceback (most recent call last):\n");
    if (place->file)
        buf_appendf(dst, "  File \"%s\", line %d, in %s\n", place->file, place->line,
                    place->function ? place->function : task);
    else
        buf_appendf(dst, "  File \"%s\", line 1, in %s\n", file ? file : "celeryc", task);
    if (!slice_eq_str(x->module, "builtins")) {
        buf_append_slice(dst, x->module);
        buf_append_char(dst, '.');
    }
    buf_append_slice(dst, x->type);
    write_message(dst, x);
    buf_append_char(dst, '\n');
}
