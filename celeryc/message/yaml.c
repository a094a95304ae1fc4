/* SPDX-License-Identifier: Apache-2.0 */
/* YAML -> JSON text, as PyYAML's safe_load reads it: libyaml's events become a tree (anchors and merge keys need one),
 * the tree is written out once.
 *
 * An alias is written out where it stands. What all aliases of a document may add is limited, so that a few lines that
 * stand for a billion are refused; a node inside itself is refused as well. */

#include "celeryc/base/limits.h"
#include "celeryc/base/map.h"
#include "celeryc/message/message_priv.h"
#include "celeryc/message/wire_priv.h"
#include "celeryc/message/yaml_priv.h"

#include <errno.h>
#include <yaml.h>

enum node_kind {
    NODE_SCALAR,
    NODE_LIST,
    NODE_SET,
    NODE_MAP,
    NODE_PAIRS, /* !!omap, !!pairs: a list of maps with one member */
};

struct node {
    enum node_kind kind;
    enum yaml_type type; /* of a scalar */
    bool open;           /* being written: an alias to it now is a cycle */
    struct slice text;
    struct link *first, **last; /* children; of a map key, value, key, value, ... */
};

/* A node may stand in several places. */
struct link {
    struct node *node;
    struct link *next;
};

struct yaml {
    struct buf *dst;
    struct arena *arena;
    struct map *anchors;
    struct err *e;
    struct node *stack[LIMIT_JSON_DEPTH];
    size_t depth, n_nodes, n_written;
    bool halves; /* the text was changed for libyaml: yaml_half.c */
    struct node *root;
};

static int bad(const struct yaml *y, const char *what)
{
    return err_set(y->e, -EINVAL, "yaml: %s", what);
}

/* ---- events to a tree ---- */

static int scalar_type(const struct yaml *y, const yaml_event_t *event, struct node *n)
{
    static const struct {
        const char *tag;
        enum yaml_type type;
    } known[] = {
        {YAML_TAG "str", YAML_T_STR},       {YAML_TAG "null", YAML_T_NULL},
        {YAML_TAG "bool", YAML_T_BOOL},     {YAML_TAG "int", YAML_T_INT},
        {YAML_TAG "float", YAML_T_FLOAT},   {YAML_TAG "timestamp", YAML_T_TIMESTAMP},
        {YAML_TAG "merge", YAML_T_MERGE},   {YAML_TAG "value", YAML_T_VALUE},
        {YAML_TAG "binary", YAML_T_BINARY},
    };

    const char *tag = (const char *)event->data.scalar.tag;

    n->type = YAML_T_STR;
    if (!tag || str_eq(tag, "!")) {
        if (event->data.scalar.plain_implicit)
            n->type = yaml_resolve(n->text);
        return 0;
    }
    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (str_eq(tag, known[i].tag)) {
            n->type = known[i].type;
            return 0;
        }
    }
    return err_set(y->e, -EINVAL, "yaml: the tag %.80s is not one of the safe ones", tag);
}

static int list_kind(const struct yaml *y, const char *tag, struct node *n)
{
    n->kind = NODE_LIST;
    if (!tag || str_eq(tag, "!") || str_eq(tag, YAML_TAG "seq"))
        return 0;
    n->kind = NODE_PAIRS;
    if (str_eq(tag, YAML_TAG "omap") || str_eq(tag, YAML_TAG "pairs"))
        return 0;
    return err_set(y->e, -EINVAL, "yaml: the tag %.80s is not a safe one of a list", tag);
}

static int map_kind(const struct yaml *y, const char *tag, struct node *n)
{
    n->kind = NODE_MAP;
    if (!tag || str_eq(tag, "!") || str_eq(tag, YAML_TAG "map"))
        return 0;
    n->kind = NODE_SET;
    if (str_eq(tag, YAML_TAG "set"))
        return 0;
    return err_set(y->e, -EINVAL, "yaml: the tag %.80s is not a safe one of a mapping", tag);
}

static int add(struct yaml *y, struct node *n)
{
    struct node *parent = y->depth ? y->stack[y->depth - 1] : NULL;
    struct link *l;

    if (!parent) {
        y->root = n;
        return 0;
    }
    l = arena_alloc(y->arena, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->node = n;
    *parent->last = l;
    parent->last = &l->next;
    return 0;
}

static int anchor(struct yaml *y, const yaml_char_t *name, struct node *n)
{
    struct slice key = slice_str((const char *)name);

    if (!name)
        return 0;
    if (map_get(y->anchors, key))
        return bad(y, "an anchor is there twice");
    return map_set(y->anchors, key, n);
}

static int new_node(struct yaml *y, struct node **ret_n)
{
    if (++y->n_nodes > LIMIT_YAML_NODES)
        return bad(y, "too many values");
    *ret_n = arena_alloc(y->arena, sizeof(**ret_n));
    if (!*ret_n)
        return -ENOMEM;
    (*ret_n)->last = &(*ret_n)->first;
    return 0;
}

static int scalar_text(const struct yaml *y, const yaml_event_t *event, struct slice *ret_s)
{
    CLEANUP(buf_deinit) struct buf shown = BUF_INIT;
    struct slice s = {(const char *)event->data.scalar.value, event->data.scalar.length};
    int r = 0;

    if (y->halves && s.len) {
        r = yaml_show_halves(&shown, s,
                             event->data.scalar.style == YAML_DOUBLE_QUOTED_SCALAR_STYLE);
        s = buf_slice(&shown);
    }
    ret_s->p = r ? NULL : arena_strdup(y->arena, s);
    ret_s->len = s.len;
    return ret_s->p ? 0 : -ENOMEM;
}

static int take_scalar(struct yaml *y, const yaml_event_t *event)
{
    struct node *n;
    int r = new_node(y, &n);

    if (r)
        return r;
    n->kind = NODE_SCALAR;
    r = scalar_text(y, event, &n->text);
    if (r == 0)
        r = scalar_type(y, event, n);
    if (r == 0)
        r = anchor(y, event->data.scalar.anchor, n);
    return r ? r : add(y, n);
}

static int take_start(struct yaml *y, const yaml_event_t *event)
{
    bool map = event->type == YAML_MAPPING_START_EVENT;
    struct node *n;
    int r = new_node(y, &n);

    if (r == 0 && map)
        r = map_kind(y, (const char *)event->data.mapping_start.tag, n);
    else if (r == 0)
        r = list_kind(y, (const char *)event->data.sequence_start.tag, n);
    if (r == 0)
        r = anchor(y, map ? event->data.mapping_start.anchor : event->data.sequence_start.anchor,
                   n);
    if (r == 0)
        r = add(y, n);
    if (r)
        return r;
    if (y->depth == LIMIT_JSON_DEPTH)
        return bad(y, "nested too deep");
    y->stack[y->depth++] = n;
    return 0;
}

static int take_alias(struct yaml *y, const yaml_event_t *event)
{
    struct node *n = map_get(y->anchors, slice_str((const char *)event->data.alias.anchor));

    if (!n)
        return bad(y, "an alias without its anchor");
    if (++y->n_nodes > LIMIT_YAML_NODES)
        return bad(y, "too many values");
    return add(y, n);
}

static int take_event(struct yaml *y, const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        return y->root ? bad(y, "more than one document") : 0;
    case YAML_SCALAR_EVENT:
        return take_scalar(y, event);
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        return take_start(y, event);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        y->depth--;
        return 0;
    case YAML_ALIAS_EVENT:
        return take_alias(y, event);
    default:
        return 0;
    }
}

static int read_events(struct yaml *y, yaml_parser_t *parser)
{
    yaml_event_t event;
    bool last = false;
    int r = 0;

    while (r == 0 && !last) {
        if (!yaml_parser_parse(parser, &event)) {
            if (parser->error == YAML_MEMORY_ERROR)
                return -ENOMEM;
            return err_set(y->e, -EINVAL, "yaml: %s in line %zu",
                           parser->problem ? parser->problem : "not YAML",
                           parser->problem_mark.line + 1);
        }
        last = event.type == YAML_STREAM_END_EVENT;
        r = take_event(y, &event);
        yaml_event_delete(&event);
    }
    return r;
}

/* ---- the tree to JSON ---- */

static int write_node(struct yaml *y, struct node *n, size_t depth, bool key);

static int enter(struct yaml *y, struct node *n, size_t depth)
{
    if (n->open)
        return bad(y, "a value that contains itself");
    if (depth >= LIMIT_JSON_DEPTH)
        return bad(y, "nested too deep");
    n->open = true;
    return 0;
}

static int write_list(struct yaml *y, const struct node *n, size_t depth)
{
    int r = 0;

    buf_append_char(y->dst, '[');
    for (const struct link *l = n->first; l && r == 0; l = l->next) {
        if (l != n->first)
            buf_append_str(y->dst, ", ");
        r = write_node(y, l->node, depth + 1, false);
    }
    buf_append_char(y->dst, ']');
    return r;
}

/* Members of one mapping after the other, with those that it merges in front of its own: later ones win. */
struct members {
    size_t n;
    size_t depth;
    bool keys_only; /* !!set */
};

static int write_pair(struct yaml *y, const struct link *l, struct members *m)
{
    int r;

    if (m->n++)
        buf_append_str(y->dst, ", ");
    r = write_node(y, l->node, m->depth + 1, !m->keys_only);
    if (r || m->keys_only)
        return r;
    buf_append_str(y->dst, ": ");
    return write_node(y, l->next->node, m->depth + 1, false);
}

static bool is_merge(const struct link *l)
{
    return l->node->kind == NODE_SCALAR && l->node->type == YAML_T_MERGE;
}

static int write_members(struct yaml *y, struct node *n, struct members *m);

/* Of a list of mappings the first wins, so it comes last. */
static int write_merged_list(struct yaml *y, const struct link *l, struct members *m)
{
    int r;

    if (!l)
        return 0;
    if (l->node->kind != NODE_MAP)
        return bad(y, "<< with something else than mappings");
    if (++y->n_written > y->n_nodes + LIMIT_YAML_ALIASED || ++m->depth >= LIMIT_JSON_DEPTH)
        return bad(y, "too much to merge");
    r = write_merged_list(y, l->next, m);
    m->depth--;
    return r ? r : write_members(y, l->node, m);
}

static int write_merged(struct yaml *y, const struct node *n, struct members *m)
{
    if (n->kind == NODE_LIST)
        return write_merged_list(y, n->first, m);
    if (n->kind != NODE_MAP)
        return bad(y, "<< with something else than mappings");
    return write_members(y, (struct node *)(uintptr_t)n, m);
}

static int write_members(struct yaml *y, struct node *n, struct members *m)
{
    int r = enter(y, n, m->depth);

    if (r)
        return r;
    if (++y->n_written > y->n_nodes + LIMIT_YAML_ALIASED)
        r = bad(y, "its aliases stand for too much");
    m->depth++;
    for (const struct link *l = n->first; l && r == 0; l = l->next->next) {
        if (is_merge(l))
            r = write_merged(y, l->next->node, m);
    }
    m->depth--;
    for (const struct link *l = n->first; l && r == 0; l = l->next->next) {
        if (!is_merge(l))
            r = write_pair(y, l, m);
    }
    n->open = false;
    return r;
}

/* [[key, value], ...] of a list of mappings with one member each. */
static int write_pairs(struct yaml *y, const struct node *n, size_t depth)
{
    int r = 0;

    if (depth + 1 >= LIMIT_JSON_DEPTH)
        return bad(y, "nested too deep");
    buf_append_char(y->dst, '[');
    for (const struct link *l = n->first; l && r == 0; l = l->next) {
        const struct node *one = l->node;

        if (one->kind != NODE_MAP || !one->first || one->first->next->next)
            return bad(y, "!!omap and !!pairs are lists of mappings with one member");
        buf_append_str(y->dst, l == n->first ? "[" : ", [");
        r = write_node(y, one->first->node, depth + 2, false);
        buf_append_str(y->dst, ", ");
        if (r == 0)
            r = write_node(y, one->first->next->node, depth + 2, false);
        buf_append_char(y->dst, ']');
    }
    buf_append_char(y->dst, ']');
    return r;
}

static int write_map(struct yaml *y, struct node *n, size_t depth)
{
    struct members m = {.depth = depth, .keys_only = n->kind == NODE_SET};
    int r;

    buf_append_char(y->dst, m.keys_only ? '[' : '{');
    r = write_members(y, n, &m);
    buf_append_char(y->dst, m.keys_only ? ']' : '}');
    return r;
}

static int write_node(struct yaml *y, struct node *n, size_t depth, bool key)
{
    int r;

    if (++y->n_written > y->n_nodes + LIMIT_YAML_ALIASED)
        return bad(y, "its aliases stand for too much");
    if (y->dst->len > LIMIT_MESSAGE_BYTES)
        return bad(y, "it is too big");
    if (n->kind == NODE_SCALAR)
        return yaml_write_scalar(y->dst, n->type, n->text, key, y->e);
    if (key)
        return bad(y, "a list or mapping as a key");
    if (n->kind == NODE_MAP || n->kind == NODE_SET)
        return write_map(y, n, depth);
    r = enter(y, n, depth);
    if (r)
        return r;
    r = n->kind == NODE_LIST ? write_list(y, n, depth) : write_pairs(y, n, depth);
    n->open = false;
    return r;
}

int yaml_read(struct buf *dst, struct slice src, struct err *e)
{
    CLEANUP(arena_free) struct arena *arena = arena_new();
    CLEANUP(map_free) struct map *anchors = map_new();
    CLEANUP(buf_deinit) struct buf hidden = BUF_INIT;
    struct yaml y = {.dst = dst, .arena = arena, .anchors = anchors, .e = e};
    yaml_parser_t parser;
    int r;

    y.halves = yaml_has_half(src);
    if (y.halves) {
        r = yaml_hide_halves(&hidden, src, e);
        if (r)
            return r;
        src = buf_slice(&hidden);
    }
    if (!arena || !anchors || !yaml_parser_initialize(&parser))
        return -ENOMEM;
    yaml_parser_set_input_string(&parser, (const unsigned char *)src.p, src.len);
    r = read_events(&y, &parser);
    yaml_parser_delete(&parser);
    if (r)
        return r;
    if (!y.root) {
        buf_append_str(dst, "null");
        return buf_ok(dst);
    }
    r = write_node(&y, y.root, 0, false);
    return r ? r : buf_ok(dst);
}
