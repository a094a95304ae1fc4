/* SPDX-License-Identifier: Apache-2.0 */
/* Effects as script arguments: each a letter and what belongs to it.
 *
 *   c ordered ttl group_ttl claim_s token fire_key redelivered   how the following ones are done
 *   r key value ttl                                  record
 *   s key size saved                                 chord opened; saved "" = none
 *   a key n nonce                                    members added; nonce "" = at every call
 *   p key task_id member score note                  part
 *
 * The widths stand in RESULT_EFFECTS_LUA as well. */
#include "celeryc/result/effects.h"

#include "celeryc/base/codec.h"

void result_token(char dst[RESULT_TOKEN_SIZE])
{
    uint64_t v[2];
    random_bytes(v, sizeof(v));
    (void)snprintf(dst, RESULT_TOKEN_SIZE, "%016llx%016llx", (unsigned long long)v[0],
                   (unsigned long long)v[1]);
}

void result_args_deinit(struct result_args *a)
{
    free(a->v);
    a->v = NULL;
    a->n = a->cap = 0;
}

void result_args_add(struct result_args *a, struct slice s)
{
    if (a->n == a->cap) {
        size_t cap = a->cap ? a->cap * 2 : 64;
        struct slice *more = realloc(a->v, cap * sizeof(*more));
        if (!more) {
            a->failed = true;
            return;
        }
        a->v = more;
        a->cap = cap;
    }
    a->v[a->n++] = s.p ? s : SLICE_LIT("");
}

void result_args_i64(struct result_args *a, int64_t v)
{
    char *text = arena_printf(a->arena, "%lld", (long long)v);
    if (!text)
        a->failed = true;
    else
        result_args_add(a, slice_str(text));
}

bool result_effects_next_record(size_t n, const struct slice *argv, size_t *at,
                                struct slice *ret_key)
{
    while (*at + 1 < n) {
        const struct slice kind = argv[*at];
        *ret_key = argv[*at + 1];
        *at += slice_eq_str(kind, "c") ? 8 : slice_eq_str(kind, "p") ? 6 : 4;
        if (slice_eq_str(kind, "r"))
            return true;
    }
    return false;
}

static bool uses_chords(const struct result_effects *x)
{
    return x->n_starts + x->n_adds + x->n_parts > 0;
}

size_t result_effects_width(const struct result_effects *x)
{
    if (!x)
        return 0;
    return (uses_chords(x) ? 8 : 0) + 4 * (x->n_records + x->n_starts + x->n_adds) + 6 * x->n_parts;
}

static void letter(struct result_args *a, const char *kind, struct slice key)
{
    result_args_add(a, slice_str(kind));
    result_args_add(a, key);
}

static void add_chords(struct result_args *a, const struct result_chords *c)
{
    letter(a, "c", c->ordered ? SLICE_LIT("1") : SLICE_LIT("0"));
    result_args_i64(a, c->ttl_s);
    result_args_i64(a, c->group_ttl_s);
    result_args_i64(a, c->claim_s);
    result_args_add(a, slice_str(c->token));
    result_args_add(a, c->fire_key);
    result_args_add(a, c->redelivered ? SLICE_LIT("1") : SLICE_LIT("0"));
}

void result_args_effects(struct result_args *a, const struct result_effects *x)
{
    if (!x)
        return;
    if (uses_chords(x))
        add_chords(a, x->chords);
    for (size_t i = 0; i < x->n_records; i++) {
        letter(a, "r", x->records[i].key);
        result_args_add(a, x->records[i].value);
        result_args_i64(a, MAX(x->records[i].ttl_s, 0));
    }
    for (size_t i = 0; i < x->n_starts; i++) {
        letter(a, "s", x->starts[i].key);
        result_args_i64(a, x->starts[i].size);
        result_args_add(a, x->starts[i].saved);
    }
    for (size_t i = 0; i < x->n_adds; i++) {
        letter(a, "a", x->adds[i].key);
        result_args_i64(a, x->adds[i].n);
        result_args_add(a, x->adds[i].nonce);
    }
    for (size_t i = 0; i < x->n_parts; i++) {
        const struct result_part *p = &x->parts[i];
        letter(a, "p", p->key);
        result_args_add(a, p->task_id);
        result_args_add(a, p->member);
        result_args_add(a, p->score);
        result_args_add(a, p->note);
    }
}
