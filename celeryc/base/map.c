/* SPDX-License-Identifier: Apache-2.0 */
/* A chained hash table. Keys come from messages, so the hash is SipHash-1-3 under a random key: nobody can make all
 * keys meet in one chain. The table doubles when it holds one entry per chain; when that allocation fails the chains
 * merely grow longer. */

#include "celeryc/base/map.h"

#include "celeryc/base/codec.h"

#include <errno.h>

#define MAP_FIRST_CHAINS 16

struct entry {
    struct entry *next;
    uint64_t hash;
    void *value;
    size_t key_len;
    char key[];
};

struct map {
    struct entry **chains;
    size_t n_chains; /* a power of two */
    size_t len;
    uint64_t seed[2];
};

static uint64_t rotl(uint64_t v, int bits)
{
    return (v << bits) | (v >> (64 - bits));
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[0] = rotl(v[0], 32);
    v[2] += v[3];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[2] = rotl(v[2], 32);
}

static uint64_t hash_of(const struct map *m, struct slice key)
{
    uint64_t v[4] = {
        m->seed[0] ^ UINT64_C(0x736f6d6570736575),
        m->seed[1] ^ UINT64_C(0x646f72616e646f6d),
        m->seed[0] ^ UINT64_C(0x6c7967656e657261),
        m->seed[1] ^ UINT64_C(0x7465646279746573),
    };
    size_t done = 0;
    uint64_t word;

    for (; key.len - done >= sizeof(word); done += sizeof(word)) {
        memcpy(&word, key.p + done, sizeof(word));
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    word = (uint64_t)(key.len & 0xff) << 56;
    for (size_t i = 0; i < key.len - done; i++)
        word |= (uint64_t)(unsigned char)key.p[done + i] << (8 * i);
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

struct map *map_new(void)
{
    struct map *m = calloc(1, sizeof(*m));

    if (!m)
        return NULL;
    m->chains = calloc(MAP_FIRST_CHAINS, sizeof(struct entry *));
    if (!m->chains)
        return map_free(m);
    m->n_chains = MAP_FIRST_CHAINS;
    random_bytes(m->seed, sizeof(m->seed));
    return m;
}

struct map *map_free(struct map *m)
{
    if (!m)
        return NULL;
    for (size_t i = 0; i < m->n_chains; i++) {
        for (struct entry *e = m->chains[i], *next; e; e = next) {
            next = e->next;
            free(e);
        }
    }
    free(m->chains);
    free(m);
    return NULL;
}

/* The link that points at the key's entry, or at NULL where it would go. */
static struct entry **find(const struct map *m, struct slice key, uint64_t hash)
{
    struct entry **link = &m->chains[hash & (m->n_chains - 1)];

    while (*link && ((*link)->hash != hash ||
                     !slice_eq((struct slice){(*link)->key, (*link)->key_len}, key)))
        link = &(*link)->next;
    return link;
}

static void grow(struct map *m)
{
    struct entry **chains = calloc(m->n_chains * 2, sizeof(*chains));

    if (!chains)
        return;
    for (size_t i = 0; i < m->n_chains; i++) {
        for (struct entry *e = m->chains[i], *next; e; e = next) {
            struct entry **link = &chains[e->hash & (m->n_chains * 2 - 1)];

            next = e->next;
            e->next = *link;
            *link = e;
        }
    }
    free(m->chains);
    m->chains = chains;
    m->n_chains *= 2;
}

int map_set(struct map *m, struct slice key, void *value)
{
    uint64_t hash = hash_of(m, key);
    struct entry **link = find(m, key, hash);
    struct entry *e = *link;
    size_t size;

    if (e) {
        e->value = value;
        return 0;
    }
    if (__builtin_add_overflow(sizeof(*e), key.len, &size))
        return -ENOMEM;
    e = malloc(size);
    if (!e)
        return -ENOMEM;
    e->next = NULL;
    e->hash = hash;
    e->value = value;
    e->key_len = key.len;
    if (key.len)
        memcpy(e->key, key.p, key.len);
    *link = e;
    m->len++;
    if (m->len > m->n_chains)
        grow(m);
    return 0;
}

void *map_get(const struct map *m, struct slice key)
{
    struct entry *e = *find(m, key, hash_of(m, key));

    return e ? e->value : NULL;
}

void *map_remove(struct map *m, struct slice key)
{
    struct entry **link = find(m, key, hash_of(m, key));
    struct entry *e = *link;
    void *value;

    if (!e)
        return NULL;
    value = e->value;
    *link = e->next;
    free(e);
    m->len--;
    return value;
}

size_t map_len(const struct map *m)
{
    return m->len;
}

int map_each(const struct map *m, int (*fn)(struct slice key, void *value, void *arg), void *arg)
{
    for (size_t i = 0; i < m->n_chains; i++) {
        for (struct entry *e = m->chains[i]; e; e = e->next) {
            int r = fn((struct slice){e->key, e->key_len}, e->value, arg);

            if (r)
                return r;
        }
    }
    return 0;
}
