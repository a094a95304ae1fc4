/* SPDX-License-Identifier: Apache-2.0 */
/* The tasks of Celery's t/integration/tasks.py that build, send or take the place of a canvas. */

#include "values.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct celeryc_sig sig;

#define COUNT(...)     (sizeof((sig *[]){__VA_ARGS__}) / sizeof(sig *))
#define CHAIN(...)     celeryc_chain(COUNT(__VA_ARGS__), (sig *[]){__VA_ARGS__})
#define GROUP(...)     celeryc_group(COUNT(__VA_ARGS__), (sig *[]){__VA_ARGS__})
#define S(name, args)  celeryc_signature(TASK(name), args, NULL)
#define SI(name, args) celeryc_sig_immutable(S(name, args))

static int replace(struct celeryc_call *call, sig *s)
{
    int end = celeryc_replace(call, s);

    celeryc_sig_free(s);
    return end;
}

static sig *signature_of(const char *name, json_t *args_take)
{
    char *args = json_text(args_take);
    sig *s = celeryc_signature(name, args, NULL);

    free(args);
    json_decref(args_take);
    return s;
}

/* The arguments of the call as they are, for another task. */
static sig *with_same_args(struct celeryc_call *call, const char *name)
{
    return signature_of(name, args_tree(call));
}

/* ---- that replace themselves ---- */

static int add_replaced(struct celeryc_call *call)
{
    return replace(call, with_same_args(call, TASK("add")));
}
CELERYC_TASK(TASK("add_replaced"), add_replaced)

static int add_replaced_with_chain(struct celeryc_call *call)
{
    return replace(call, CHAIN(with_same_args(call, TASK("add")), S("identity", NULL)));
}
CELERYC_TASK(TASK("add_replaced_with_chain"), add_replaced_with_chain)

static int fail_replaced(struct celeryc_call *call)
{
    return replace(call, celeryc_sig_immutable(with_same_args(call, TASK("fail"))));
}
CELERYC_TASK(TASK("fail_replaced"), fail_replaced)

/* redis_echo.s(), immutable and with link_msg for its argument when that was given. */
static sig *echo_of_link_msg(struct celeryc_call *call)
{
    json_t *kwargs = kwargs_tree(call);
    json_t *message = json_object_get(kwargs, "link_msg");
    sig *echo =
        message && !json_is_null(message)
            ? celeryc_sig_immutable(signature_of(TASK("redis_echo"), json_pack("[O]", message)))
            : S("redis_echo", NULL);

    json_decref(kwargs);
    return echo;
}

static int replace_with_chain(struct celeryc_call *call)
{
    return replace(
        call, celeryc_sig_link(CHAIN(with_same_args(call, TASK("identity")), S("identity", NULL)),
                               echo_of_link_msg(call)));
}
CELERYC_TASK(TASK("replace_with_chain"), replace_with_chain)

static int replace_with_chain_which_raises(struct celeryc_call *call)
{
    return replace(call, celeryc_sig_link_error(
                             CHAIN(with_same_args(call, TASK("identity")), S("raise_error", NULL)),
                             echo_of_link_msg(call)));
}
CELERYC_TASK(TASK("replace_with_chain_which_raises"), replace_with_chain_which_raises)

static int replace_with_empty_chain(struct celeryc_call *call)
{
    return replace(call, celeryc_chain(0, NULL));
}
CELERYC_TASK(TASK("replace_with_empty_chain"), replace_with_empty_chain)

static int replace_with_chain_which_contains_a_group(struct celeryc_call *call)
{
    return replace(call, CHAIN(S("add", "[1, 2]"), GROUP(S("add", "[1]"), S("add", "[1]"))));
}
CELERYC_TASK(TASK("replace_with_chain_which_contains_a_group"),
             replace_with_chain_which_contains_a_group)

/* Each replacement notes how deep it is, until none is left to do. */
static int record_replaced_task_nesting(struct celeryc_call *call)
{
    const char *noted = "[]", *nesting;
    size_t len = 2, nesting_len;
    int64_t replacements;
    json_t *levels;

    if (celeryc_args(call, "i|j", &replacements, &noted, &len))
        return wrong_arguments(call);
    levels = tree_of(noted, len);
    nesting = celeryc_request(call, "replaced_task_nesting", &nesting_len);
    json_array_append_new(levels, nesting ? tree_of(nesting, nesting_len) : json_integer(0));
    if (replacements == 0)
        return return_value(call, levels, NULL);
    return replace(call, signature_of(TASK("record_replaced_task_nesting"),
                                      json_pack("[Io]", (json_int_t)replacements - 1, levels)));
}
CELERYC_TASK(TASK("record_replaced_task_nesting"), record_replaced_task_nesting,
             .arg_names = "replacements,nesting")

/* Says "In" and becomes the chain, or, when called again, says "Out". */
static int second_order(struct celeryc_call *call, const char *name, sig *(*chain)(void))
{
    char text[32];
    bool state = false;
    json_t *message;
    int end = 0, code;

    if (celeryc_args(call, "|b", &state))
        return wrong_arguments(call);
    snprintf(text, sizeof text, "%s %s", state ? "Out" : "In", name);
    message = json_string(text);
    code = redis_push(call, "redis-echo", message, &end);
    json_decref(message);
    if (code < 0)
        return end;
    return state ? celeryc_return_none(call) : replace(call, chain());
}

static sig *chain_of_a(void)
{
    return CHAIN(S("second_order_replace2", NULL),
                 celeryc_sig_immutable(
                     celeryc_signature(TASK("second_order_replace1"), NULL, "{\"state\": true}")));
}

static int second_order_replace1(struct celeryc_call *call)
{
    return second_order(call, "A", chain_of_a);
}
CELERYC_TASK(TASK("second_order_replace1"), second_order_replace1, .arg_names = "state")

static sig *chain_of_b(void)
{
    return CHAIN(S("redis_echo", "[\"In/Out C\"]"),
                 celeryc_sig_immutable(
                     celeryc_signature(TASK("second_order_replace2"), NULL, "{\"state\": true}")));
}

static int second_order_replace2(struct celeryc_call *call)
{
    return second_order(call, "B", chain_of_b);
}
CELERYC_TASK(TASK("second_order_replace2"), second_order_replace2, .arg_names = "state")

/* Its Python class stamps the replacement in on_replace(). */
static int replace_with_stamped_task(struct celeryc_call *call)
{
    const char *with = "null";
    size_t len = 4;
    sig *s;

    if (celeryc_args(call, "|j", &with, &len))
        return wrong_arguments(call);
    s = *with == '{' ? celeryc_sig_from_json(with, len) : S("replaced_with_me", NULL);
    return replace(call, celeryc_sig_stamp(s, "StampOnReplace", "\"This is the replaced task\""));
}
CELERYC_TASK(TASK("replace_with_stamped_task"), replace_with_stamped_task,
             .arg_names = "replace_with")

static int replaced_with_me(struct celeryc_call *call)
{
    return celeryc_return_bool(call, true);
}
CELERYC_TASK(TASK("replaced_with_me"), replaced_with_me)

/* ---- groups and chords of add(number, val) ---- */

struct sums {
    size_t n;
    sig **tasks;
};

static int sums_of(struct celeryc_call *call, struct sums *ret_sums)
{
    const char *nums_text, *val_text;
    size_t nums_len, val_len, i;
    json_t *nums, *val;

    if (celeryc_args(call, "jj", &nums_text, &nums_len, &val_text, &val_len))
        return -1;
    nums = tree_of(nums_text, nums_len);
    val = tree_of(val_text, val_len);
    ret_sums->n = json_array_size(nums);
    ret_sums->tasks = calloc(ret_sums->n + 1, sizeof *ret_sums->tasks);
    for (i = 0; i < ret_sums->n; i++)
        ret_sums->tasks[i] =
            signature_of(TASK("add"), json_pack("[OO]", json_array_get(nums, i), val));
    json_decref(nums);
    json_decref(val);
    return 0;
}

static sig *group_of(struct sums *sums)
{
    sig *s = celeryc_group(sums->n, sums->tasks);

    free(sums->tasks);
    return s;
}

static int add_to_all(struct celeryc_call *call)
{
    struct sums sums;

    return sums_of(call, &sums) ? wrong_arguments(call) : replace(call, group_of(&sums));
}
CELERYC_TASK(TASK("add_to_all"), add_to_all, .arg_names = "nums,val")

static int add_to_all_to_chord(struct celeryc_call *call)
{
    struct sums sums;
    int code = 0;
    size_t i;

    if (sums_of(call, &sums))
        return wrong_arguments(call);
    for (i = 0; i < sums.n; i++) {
        if (code == 0)
            code = celeryc_add_to_chord(call, sums.tasks[i]);
        celeryc_sig_free(sums.tasks[i]);
    }
    free(sums.tasks);
    return code ? code : celeryc_return_int(call, 0);
}
CELERYC_TASK(TASK("add_to_all_to_chord"), add_to_all_to_chord, .arg_names = "nums,val")

static int add_chord_to_chord(struct celeryc_call *call)
{
    struct sums sums;
    sig *chord;
    int code;

    if (sums_of(call, &sums))
        return wrong_arguments(call);
    chord = celeryc_chord(group_of(&sums), S("tsum", NULL));
    code = celeryc_add_to_chord(call, chord);
    celeryc_sig_free(chord);
    return code ? code : celeryc_return_int(call, 0);
}
CELERYC_TASK(TASK("add_chord_to_chord"), add_chord_to_chord, .arg_names = "nums,val")

/* ---- that send a canvas, or give one back ---- */

static int build_chain_inside_task(struct celeryc_call *call)
{
    sig *chain = CHAIN(S("add", "[1, 1]"), S("add", "[2]"), GROUP(S("add", "[3]"), S("add", "[4]")),
                       S("add", "[5]"));
    const char *result;
    int code = celeryc_apply(call, chain, NULL, &result);

    celeryc_sig_free(chain);
    return code ? code : celeryc_return_json(call, result, strlen(result));
}
CELERYC_TASK(TASK("build_chain_inside_task"), build_chain_inside_task)

#define RETURN_NESTED(kind, canvas)                                             \
    static int return_nested_##kind(struct celeryc_call *call)                  \
    {                                                                           \
        sig *s = canvas;                                                        \
        size_t len;                                                             \
        const char *json = celeryc_sig_json(s, &len);                           \
        int end = json ? celeryc_return_json(call, json, len)                   \
                       : celeryc_raise(call, "ValueError", "broken signature"); \
                                                                                \
        celeryc_sig_free(s);                                                    \
        return end;                                                             \
    }                                                                           \
    CELERYC_TASK(TASK("return_nested_signature_" #kind), return_nested_##kind)

#define ADD S("add", NULL)

RETURN_NESTED(chain_chain, CHAIN(CHAIN(ADD)))
RETURN_NESTED(chain_group, CHAIN(GROUP(ADD)))
RETURN_NESTED(chain_chord, CHAIN(celeryc_chord(GROUP(ADD), ADD)))
RETURN_NESTED(group_chain, GROUP(CHAIN(ADD)))
RETURN_NESTED(group_group, GROUP(GROUP(ADD)))
RETURN_NESTED(group_chord, GROUP(celeryc_chord(GROUP(ADD), ADD)))
RETURN_NESTED(chord_chain, celeryc_chord(CHAIN(ADD), ADD))
RETURN_NESTED(chord_group, celeryc_chord(GROUP(GROUP(ADD)), ADD))
RETURN_NESTED(chord_chord, celeryc_chord(celeryc_chord(GROUP(ADD), ADD), ADD))

/* The signature itself and everything inside are to be signatures. */
static bool is_signature(const json_t *s)
{
    const json_t *kwargs = json_object_get(s, "kwargs");
    const json_t *type = json_object_get(s, "subtask_type");
    const char *kind = json_is_string(type) ? json_string_value(type) : "";
    const json_t *inner, *body = NULL;
    size_t i;

    if (!json_is_string(json_object_get(s, "task")))
        return false;
    if (strcmp(kind, "chain") != 0 && strcmp(kind, "group") != 0 && strcmp(kind, "chord") != 0)
        return true;
    inner = json_object_get(kwargs, "tasks");
    if (strcmp(kind, "chord") == 0) {
        inner = json_object_get(kwargs, "header");
        body = json_object_get(kwargs, "body");
        if (!body || !is_signature(body))
            return false;
        if (json_is_object(inner))
            return is_signature(inner);
    }
    for (i = 0; i < json_array_size(inner); i++)
        if (!is_signature(json_array_get(inner, i)))
            return false;
    return json_is_array(inner);
}

static int rebuild_signature(struct celeryc_call *call)
{
    const char *text;
    size_t len;
    json_t *s;
    bool ok;

    if (celeryc_args(call, "j", &text, &len))
        return wrong_arguments(call);
    s = tree_of(text, len);
    ok = is_signature(s);
    json_decref(s);
    return ok ? celeryc_return_none(call)
              : celeryc_raise(call, "TypeError", "not a signature object");
}
CELERYC_TASK(TASK("rebuild_signature"), rebuild_signature, .arg_names = "sig_dict")
