/* SPDX-License-Identifier: Apache-2.0 */
/* Patterns for node names. A glob is Python's fnmatch. A "pcre" is Python's re.match, of which the part that has no
 * memory is spoken: literals, ., classes, \d \w \s \b and their opposites, anchors, groups, |, * + ? {m,n} and their lazy
 * forms. It is compiled to a small program whose threads run side by side (Thompson), so no pattern, however hostile,
 * takes longer than its length times the name's. What is not spoken is refused by name. */

#include "celeryc/control/control_priv.h"

#include "celeryc/base/limits.h"

#include <ctype.h>
#include <errno.h>

#define MAX_PROGRAM 4096
#define MAX_GROUPS  32 /* nesting */
#define MAX_REPEAT  1000
#define MAX_WORK \
    100000 /* atoms and instructions while compiling: what is repeated is compiled again */

/* ---- glob ---- */

/* The bracket that starts at p (behind '['): the byte behind its ']', NULL when it has none (then '[' is a literal). */
static const char *bracket_end(const char *p, const char *end)
{
    const char *q = p;
    if (q < end && *q == '!')
        q++;
    if (q < end && *q == ']')
        q++;
    while (q < end && *q != ']')
        q++;
    return q < end ? q + 1 : NULL;
}

static bool in_bracket(const char *p, const char *close, unsigned char ch)
{
    bool negated = *p == '!';
    bool hit = false;
    p += negated;
    for (const char *q = p; q < close; q++) {
        if (q + 2 < close && q[1] == '-') {
            hit |= (unsigned char)q[0] <= ch && ch <= (unsigned char)q[2];
            q += 2;
        } else {
            hit |= (unsigned char)*q == ch;
        }
    }
    return hit != negated;
}

static bool glob_one(const char **p, const char *end, unsigned char ch)
{
    const char *close = **p == '[' ? bracket_end(*p + 1, end) : NULL;
    if (close) {
        bool hit = in_bracket(*p + 1, close - 1, ch);
        *p = close;
        return hit;
    }
    return *(*p)++ == '?' || (unsigned char)(*p)[-1] == ch;
}

static bool match_glob(struct slice name, struct slice pattern)
{
    const char *p = pattern.p, *pe = p + pattern.len, *s = name.p, *se = s + name.len;
    const char *star = NULL, *resume = NULL;
    while (s < se) {
        const char *next = p;
        if (p < pe && *p == '*') {
            star = ++p;
            resume = s;
        } else if (p < pe && glob_one(&next, pe, (unsigned char)*s)) {
            p = next;
            s++;
        } else if (star) {
            p = star;
            s = ++resume;
        } else {
            return false;
        }
    }
    while (p < pe && *p == '*')
        p++;
    return p == pe;
}

/* ---- compiling ---- */

enum op {
    OP_SET, /* one byte of the set */
    OP_SPLIT,
    OP_JUMP,
    OP_START,
    OP_END,      /* $: also before a last newline */
    OP_VERY_END, /* \Z */
    OP_EDGE,     /* \b */
    OP_NO_EDGE,
    OP_MATCH,
};

struct inst {
    enum op op;
    uint16_t x, y; /* where to go on; SET: x is the index of its set */
};

struct set {
    uint64_t bits[4];
};

struct program {
    const char *p, *end; /* what is left of the pattern */
    struct inst *code;
    struct set *sets;
    size_t n, n_sets;
    unsigned depth, work;
    struct err *e;
};

static int refuse(struct program *g, const char *what)
{
    return err_set(g->e, -EINVAL, "its pcre pattern %s", what);
}

static int emit(struct program *g, enum op op, size_t x, size_t y)
{
    if (g->n >= MAX_PROGRAM || ++g->work > MAX_WORK)
        return refuse(g, "is too big");
    g->code[g->n++] = (struct inst){op, (uint16_t)x, (uint16_t)y};
    return 0;
}

static void set_add(struct set *s, unsigned char ch)
{
    s->bits[ch / 64] |= UINT64_C(1) << ch % 64;
}

static bool set_has(const struct set *s, unsigned char ch)
{
    return s->bits[ch / 64] >> ch % 64 & 1;
}

static int emit_set(struct program *g, const struct set *s)
{
    if (g->n_sets >= MAX_PROGRAM)
        return refuse(g, "is too big");
    g->sets[g->n_sets] = *s;
    return emit(g, OP_SET, g->n_sets++, 0);
}

static bool is_word(unsigned char ch)
{
    return isalnum(ch) || ch == '_' || ch >= 0x80;
}

/* ASCII only: node names are. */
static bool is_kind(char kind, unsigned char ch)
{
    switch (kind) {
    case 'd':
        return ch >= '0' && ch <= '9';
    case 'w':
        return is_word(ch);
    default:
        return ch == ' ' || (ch >= '\t' && ch <= '\r');
    }
}

/* \d \w \s and their opposites. False: another letter. */
static bool add_kind(struct set *s, char letter)
{
    static const char kinds[] = "dwsDWS";
    const char *at = letter ? strchr(kinds, letter) : NULL;
    if (!at)
        return false;
    bool opposite = at - kinds >= 3;
    for (unsigned ch = 0; ch < 256; ch++)
        if (is_kind(kinds[(at - kinds) % 3], (unsigned char)ch) != opposite)
            set_add(s, (unsigned char)ch);
    return true;
}

static int escape(struct program *g, struct set *s, char letter)
{
    static const char from[] = "ntrfva0", to[] = "\n\t\r\f\v\a\0";
    if (add_kind(s, letter))
        return 0;
    const char *at = letter ? strchr(from, letter) : NULL;
    if (at)
        set_add(s, (unsigned char)to[at - from]);
    else if (isalnum((unsigned char)letter))
        return refuse(g, "uses an escape that is not supported here");
    else
        set_add(s, (unsigned char)letter);
    return 0;
}

static int class_element(struct program *g, struct set *s)
{
    unsigned char low = (unsigned char)*g->p++;
    if (low == '\\') {
        if (g->p == g->end)
            return refuse(g, "ends in a backslash");
        struct set before = *s;
        char letter = *g->p++;
        int r = escape(g, s, letter);
        bool range = r == 0 && g->end - g->p >= 2 && *g->p == '-' && g->p[1] != ']';
        if (!range || !letter || strchr("dDwWsS", letter))
            return r;
        *s = before;
        low = (unsigned char)letter;
    }
    unsigned char high = low;
    if (g->end - g->p >= 2 && *g->p == '-' && g->p[1] != ']') {
        g->p++;
        high = (unsigned char)*g->p++;
        if (high == '\\') {
            if (g->p == g->end)
                return refuse(g, "ends in a backslash");
            high = (unsigned char)*g->p++;
        }
        if (high < low)
            return refuse(g, "has a bad range of characters");
    }
    for (unsigned ch = low; ch <= high; ch++)
        set_add(s, (unsigned char)ch);
    return 0;
}

static int class_of(struct program *g)
{
    struct set s = {{0}};
    bool negated = g->p < g->end && *g->p == '^';
    g->p += negated;
    for (bool first = true;; first = false) {
        if (g->p == g->end)
            return refuse(g, "has no ']' for its '['");
        if (*g->p == ']' && !first)
            break;
        int r = class_element(g, &s);
        if (r)
            return r;
    }
    g->p++;
    if (negated)
        for (size_t i = 0; i < ARRAY_SIZE(s.bits); i++)
            s.bits[i] = ~s.bits[i];
    return emit_set(g, &s);
}

static int alternatives(struct program *g);

static int group(struct program *g)
{
    if (g->p < g->end && *g->p == '?') {
        if (g->end - g->p >= 2 && g->p[1] == ':') {
            g->p += 2;
        } else if (g->end - g->p >= 3 && g->p[1] == 'P' && g->p[2] == '<') {
            const char *close = memchr(g->p, '>', (size_t)(g->end - g->p));
            if (!close)
                return refuse(g, "has a group whose name does not end");
            g->p = close + 1;
        } else {
            return refuse(g, "uses (?...), which is not supported here");
        }
    }
    if (++g->depth > MAX_GROUPS)
        return refuse(g, "is nested too deeply");
    int r = alternatives(g);
    g->depth--;
    if (r)
        return r;
    if (g->p == g->end)
        return refuse(g, "has no ')' for its '('");
    g->p++;
    return 0;
}

static int atom(struct program *g)
{
    struct set s = {{0}};
    if (++g->work > MAX_WORK)
        return refuse(g, "is too big");
    char ch = *g->p++;
    switch (ch) {
    case '(':
        return group(g);
    case '[':
        return class_of(g);
    case '^':
        return emit(g, OP_START, 0, 0);
    case '$':
        return emit(g, OP_END, 0, 0);
    case '.':
        for (unsigned i = 0; i < 256; i++)
            if (i != '\n')
                set_add(&s, (unsigned char)i);
        return emit_set(g, &s);
    case '*':
    case '+':
    case '?':
        return refuse(g, "repeats nothing");
    case '\\':
        if (g->p == g->end)
            return refuse(g, "ends in a backslash");
        ch = *g->p++;
        if (ch == 'b' || ch == 'B')
            return emit(g, ch == 'b' ? OP_EDGE : OP_NO_EDGE, 0, 0);
        if (ch == 'A' || ch == 'Z')
            return emit(g, ch == 'A' ? OP_START : OP_VERY_END, 0, 0);
        if (escape(g, &s, ch))
            return -EINVAL;
        return emit_set(g, &s);
    default:
        set_add(&s, (unsigned char)ch);
        return emit_set(g, &s);
    }
}

/* {m}, {m,}, {,n}, {m,n} at p. False: a literal brace, as in Python. */
static bool read_count(const char **p, const char *end, unsigned *ret_min, unsigned *ret_max)
{
    const char *q = *p + 1;
    unsigned n[2] = {0, 0};
    bool given[2] = {false, false};
    size_t i = 0;
    for (; q < end && *q != '}'; q++) {
        if (*q == ',' && i == 0) {
            i = 1;
        } else if (isdigit((unsigned char)*q) && n[i] <= MAX_REPEAT) {
            n[i] = n[i] * 10 + (unsigned)(*q - '0');
            given[i] = true;
        } else {
            return false;
        }
    }
    if (q == end || (!given[0] && !given[1]))
        return false;
    *p = q + 1;
    *ret_min = n[0];
    *ret_max = i == 0 ? n[0] : given[1] ? n[1] : UINT32_MAX;
    return true;
}

static bool read_quantifier(struct program *g, unsigned *ret_min, unsigned *ret_max)
{
    if (g->p == g->end)
        return false;
    *ret_min = *g->p == '+';
    *ret_max = *g->p == '?' ? 1 : UINT32_MAX;
    if (*g->p == '{')
        return read_count(&g->p, g->end, ret_min, ret_max);
    if (*g->p != '*' && *g->p != '+' && *g->p != '?')
        return false;
    g->p++;
    return true;
}

/* Compiles the atom at `start` again, behind what there is. */
static int again(struct program *g, const char *start)
{
    const char *after = g->p;
    g->p = start;
    int r = atom(g);
    g->p = after;
    return r;
}

/* An optional copy of the atom: for ever, or once. */
static int optional(struct program *g, const char *start, bool loop)
{
    size_t split = g->n;
    int r = emit(g, OP_SPLIT, g->n + 1, 0);
    if (r == 0)
        r = again(g, start);
    if (r == 0 && loop)
        r = emit(g, OP_JUMP, split, 0);
    if (r == 0)
        g->code[split].y = (uint16_t)g->n;
    return r;
}

static int piece(struct program *g)
{
    const char *start = g->p;
    size_t n = g->n, n_sets = g->n_sets;
    unsigned min, max;
    int r = atom(g);
    if (r || !read_quantifier(g, &min, &max))
        return r;
    if (g->p < g->end && *g->p == '?')
        g->p++; /* lazy: the same names match */
    else if (g->p < g->end && (*g->p == '+' || *g->p == '*'))
        return refuse(g, "repeats a repetition");
    if (min > MAX_REPEAT || (max != UINT32_MAX && (max > MAX_REPEAT || max < min)))
        return refuse(g, "has a bad number of repetitions");
    g->n = n;
    g->n_sets = n_sets;
    for (unsigned i = 0; r == 0 && i < min; i++)
        r = again(g, start);
    if (max == UINT32_MAX)
        return r ? r : optional(g, start, true);
    for (unsigned i = min; r == 0 && i < max; i++)
        r = optional(g, start, false);
    return r;
}

static int sequence(struct program *g)
{
    int r = 0;
    while (r == 0 && g->p < g->end && *g->p != '|' && *g->p != ')')
        r = piece(g);
    return r;
}

/* Each but the last: SPLIT into it and what follows, and a JUMP behind them all. The split is made room for by compiling
 * the alternative once more behind it. */
static int alternatives(struct program *g)
{
    size_t last_jump = SIZE_MAX;
    for (;;) {
        const char *start = g->p;
        size_t n = g->n, n_sets = g->n_sets;
        int r = sequence(g);
        if (r || g->p == g->end || *g->p != '|') {
            while (r == 0 && last_jump != SIZE_MAX) {
                size_t before =
                    g->code[last_jump].y == UINT16_MAX ? SIZE_MAX : g->code[last_jump].y;
                g->code[last_jump].x = (uint16_t)g->n;
                last_jump = before;
            }
            return r;
        }
        g->p = start;
        g->n = n;
        g->n_sets = n_sets;
        r = emit(g, OP_SPLIT, n + 1, 0);
        if (r == 0)
            r = sequence(g);
        size_t jump = g->n;
        if (r == 0)
            r = emit(g, OP_JUMP, 0, last_jump == SIZE_MAX ? UINT16_MAX : last_jump);
        if (r)
            return r;
        last_jump = jump;
        g->code[n].y = (uint16_t)g->n;
        g->p++; /* the bar */
    }
}

/* ---- running ---- */

struct threads {
    uint16_t *at;
    size_t n;
    uint32_t *seen; /* by instruction: the step at which it was entered */
    uint32_t step;
};

static bool holds(const struct inst *i, struct slice name, size_t pos)
{
    bool before = pos > 0 && is_word((unsigned char)name.p[pos - 1]);
    bool after = pos < name.len && is_word((unsigned char)name.p[pos]);
    switch (i->op) {
    case OP_START:
        return pos == 0;
    case OP_END:
        return pos == name.len || (pos + 1 == name.len && name.p[pos] == '\n');
    case OP_VERY_END:
        return pos == name.len;
    case OP_EDGE:
        return before != after;
    default:
        return before == after;
    }
}

/* Follows everything that takes no byte. True: the end was reached. */
static bool enter(const struct program *g, struct threads *t, size_t at, struct slice name,
                  size_t pos)
{
    const struct inst *i = &g->code[at];
    if (t->seen[at] == t->step)
        return false;
    t->seen[at] = t->step;
    switch (i->op) {
    case OP_MATCH:
        return true;
    case OP_SET:
        t->at[t->n++] = (uint16_t)at;
        return false;
    case OP_JUMP:
        return enter(g, t, i->x, name, pos);
    case OP_SPLIT:
        return enter(g, t, i->x, name, pos) || enter(g, t, i->y, name, pos);
    default:
        return holds(i, name, pos) && enter(g, t, at + 1, name, pos);
    }
}

static int run(struct arena *a, const struct program *g, struct slice name, bool *ret_match)
{
    struct threads now = {.at = arena_alloc_array(a, g->n, sizeof(uint16_t)),
                          .seen = arena_alloc_array(a, g->n, sizeof(uint32_t)),
                          .step = 1};
    uint16_t *old = arena_alloc_array(a, g->n, sizeof(uint16_t));
    if (!now.at || !now.seen || !old)
        return -ENOMEM;
    bool hit = enter(g, &now, 0, name, 0);
    for (size_t pos = 0; !hit && pos < name.len && now.n; pos++) {
        uint16_t *from = now.at;
        size_t n = now.n;
        now.at = old;
        now.n = 0;
        now.step++;
        for (size_t k = 0; !hit && k < n; k++)
            if (set_has(&g->sets[g->code[from[k]].x], (unsigned char)name.p[pos]))
                hit = enter(g, &now, from[k] + 1u, name, pos + 1);
        old = from;
    }
    *ret_match = hit;
    return 0;
}

static int match_pcre(struct arena *a, struct slice name, struct slice pattern, bool *ret_match,
                      struct err *e)
{
    struct program g = {.p = pattern.p,
                        .end = pattern.p + pattern.len,
                        .code = arena_alloc_array(a, MAX_PROGRAM, sizeof(struct inst)),
                        .sets = arena_alloc_array(a, MAX_PROGRAM, sizeof(struct set)),
                        .e = e};
    if (!g.code || !g.sets)
        return -ENOMEM;
    int r = alternatives(&g);
    if (r == 0 && g.p < g.end)
        r = refuse(&g, "has a ')' without its '('");
    if (r == 0)
        r = emit(&g, OP_MATCH, 0, 0);
    return r ? r : run(a, &g, name, ret_match);
}

int match_name(struct arena *a, struct slice name, struct slice pattern, struct slice matcher,
               bool *ret_match, struct err *e)
{
    if (pattern.len > LIMIT_CONTROL_PATTERN)
        return err_set(e, -EINVAL, "its pattern is too long");
    if (slice_eq_str(matcher, "pcre"))
        return match_pcre(a, name, pattern, ret_match, e);
    if (!slice_eq_str(matcher, "glob"))
        return err_set(e, -EINVAL, "no matcher called '%.*s' is installed",
                       (int)MIN(matcher.len, 100), matcher.p);
    *ret_match = match_glob(name, pattern);
    return 0;
}
