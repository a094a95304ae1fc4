/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the end of a task does to records and chords, besides its own record: as structs, as script arguments, and as
 * the Lua text that applies them. Used by the transport's script (broker and backend are one database) and by the
 * backend's. No I/O.
 *
 * Keys of a chord, <key> = [prefix]celery-taskset-meta-<group id> (Celery 5.7, backends/redis.py):
 *   <key>.s  string  size                       <key>.j  zset or list  parts, [1, "<id>", "<state>", <result>]
 *   <key>.t  string  members added later        <key>.d  set           "<task id>:<score>" of counted parts
 *   <key>.c  string  claim token, then "done"   <key>    string        saved group result, for nested headers
 * and ours, which Celery does not know:
 *   [prefix]celeryc:fire  hash  <key> -> note of a chord that is claimed and whose body is not published yet
 *
 * A note is JSON: {"v": 1, "broker": "<where the body goes>", "nonce", "owner", "group", "parent", "root",
 * "priority", "body"}. Readers leave another "v" alone. With it any celeryc can fire a chord whose claimer died after
 * the last part was counted: in Celery such a chord is lost unless a part happens to be delivered once more. */

#include "celeryc/base/arena.h"
#include "celeryc/base/buf.h"

#define RESULT_TOKEN_SIZE 33

struct result_record {
    struct slice key; /* full key, which is also the channel */
    struct slice value;
    int64_t ttl_s; /* 0: no expiry */
};

/* A chord that is opened: its old claim goes, its size is set. */
struct result_start {
    struct slice key;
    int64_t size;
    struct slice saved; /* p NULL: none */
};

/* Members that join a chord while it runs. nonce: applied once for each; p NULL: at every call. */
struct result_add {
    struct slice key;
    int64_t n;
    struct slice nonce;
};

struct result_part {
    struct slice key;
    struct slice task_id, score, member;
    struct slice note; /* kept when this part completes the chord */
};

/* How chords are counted here, and the token under which this call claims those that it completes. */
struct result_chords {
    bool ordered;        /* zset; false: list */
    int64_t ttl_s;       /* of .s .j .t .d, 0: none */
    int64_t group_ttl_s; /* of the saved group result, 0: none */
    int64_t claim_s;     /* life of a claim */
    bool redelivered;    /* the task may be a late copy of one that was counted */
    struct slice fire_key;
    char token[RESULT_TOKEN_SIZE];
};

/* Applied in this order: records, starts, adds, parts. */
struct result_effects {
    const struct result_chords *chords; /* needed with starts, adds or parts */
    size_t n_records, n_starts, n_adds, n_parts;
    const struct result_record *records; /* each stored and published unless SUCCESS is there */
    const struct result_start *starts;
    const struct result_add *adds;
    const struct result_part *parts;
};

void result_token(char dst[RESULT_TOKEN_SIZE]); /* 32 random hex digits */

/* A growing list of script arguments. Numbers live in the arena, everything else is borrowed. */
struct result_args {
    struct arena *arena;
    struct slice *v; /* malloc */
    size_t n, cap;
    bool failed; /* out of memory */
};

void result_args_deinit(struct result_args *a);
DEFINE_CLEANUP_VALUE(struct result_args, result_args_deinit)
void result_args_add(struct result_args *a, struct slice s);
void result_args_i64(struct result_args *a, int64_t v);
/* x may be NULL. The number of arguments that were added goes in front by the caller's own means: it is
 * result_effects_width(x). */
void result_args_effects(struct result_args *a, const struct result_effects *x);
size_t result_effects_width(const struct result_effects *x);
/* The key of the next record among n arguments of effects; *at starts at 0. False: no more. */
bool result_effects_next_record(size_t n, const struct slice *argv, size_t *at,
                                struct slice *ret_key);

/* Lua: needs A = ARGV, call and pcall_. Defines
 *   store(key, value, ttl)   a record, unless SUCCESS is there; a state on the way neither over a compressed record, which
 *                            may hide one (what ends is not stored before somebody has looked: worker/finish.c)
 *   effects(from, n, rest)   the n arguments from A[from] on; true when a chord was completed and claimed. With rest
 *                            it stops in front of the first part and gives its place
 *   settle(key, how, fire)   a chord that was claimed has been fired ("b") or failed ("e") */
#define RESULT_EFFECTS_LUA                                                                                                                                                                           \
    "local final = {SUCCESS = 1, FAILURE = 1, REVOKED = 1, RETRY = 1}\n"                                                                                                                             \
    "local function hides(old, value)\n"                                                                                                                                                             \
    "  return type(old) == 'string' and string.sub(old, 1, 19) == '\\0celery-compressed\\0' and\n"                                                                                                   \
    "    not final[string.match(value, '^{\"status\": \"(%u+)\"') or '']\n"                                                                                                                          \
    "end\n"                                                                                                                                                                                          \
    "local function store(key, value, ttl)\n"                                                                                                                                                        \
    "  if key == '' then return end\n"                                                                                                                                                               \
    "  local fresh\n"                                                                                                                                                                                \
    "  if ttl == '0' then fresh = call('SET', key, value, 'NX')\n"                                                                                                                                   \
    "  else fresh = call('SET', key, value, 'EX', ttl, 'NX') end\n"                                                                                                                                  \
    "  if not fresh then\n"                                                                                                                                                                          \
    "    local old = pcall_('GETRANGE', key, 0, 19)\n"                                                                                                                                               \
    "    if old == '{\"status\": \"SUCCESS\"' or hides(old, value) then return end\n"                                                                                                                \
    "    if ttl == '0' then call('SET', key, value) else call('SETEX', key, ttl, value) end\n"                                                                                                       \
    "  end\n"                                                                                                                                                                                        \
    "  call('PUBLISH', key, value)\n"                                                                                                                                                                \
    "end\n"                                                                                                                                                                                          \
    "local ordered, chord_ttl, group_ttl, claim_s, token, fire, redelivered\n"                                                                                                                       \
    "local function put(key, value)\n"                                                                                                                                                               \
    "  if chord_ttl == '0' then call('SET', key, value)\n"                                                                                                                                           \
    "  else call('SET', key, value, 'EX', chord_ttl) end\n"                                                                                                                                          \
    "end\n"                                                                                                                                                                                          \
    "local function live(key, ttl)\n"                                                                                                                                                                \
    "  if ttl ~= '0' then call('EXPIRE', key, ttl) end\n"                                                                                                                                            \
    "end\n"                                                                                                                                                                                          \
    "local function number(v) return type(v) == 'string' and tonumber(v) end\n" /* First result wins, by id and index. Two entries of one header may have the same id (a frozen signature used     \
     * twice): with equal results they would be one zset member, and the chord would never be full. A blank behind the \
     * JSON keeps them apart and means nothing to readers. */ \
    "local function keep(key, id, member, score)\n"                                                                                                                                                  \
    "  local seen = id .. ':' .. score\n"                                                                                                                                                            \
    "  if pcall_('SISMEMBER', key .. '.d', seen) ~= 0 then return end\n"                                                                                                                             \
    "  if ordered == '1' then\n"                                                                                                                                                                     \
    "    for i = 1, 1000 do\n"                                                                                                                                                                       \
    "      local r = pcall_('ZADD', key .. '.j', 'NX', score, member)\n"                                                                                                                             \
    "      if r ~= 0 or number(pcall_('ZSCORE', key .. '.j', member)) == tonumber(score) then\n"                                                                                                     \
    "        break\n"                                                                                                                                                                                \
    "      end\n"                                                                                                                                                                                    \
    "      member = member .. ' '\n"                                                                                                                                                                 \
    "    end\n"                                                                                                                                                                                      \
    "  else\n"                                                                                                                                                                                       \
    "    pcall_('RPUSH', key .. '.j', member)\n"                                                                                                                                                     \
    "  end\n"                                                                                                                                                                                        \
    "  pcall_('SADD', key .. '.d', seen)\n"                                                                                                                                                          \
    "end\n"                                                                                                                                                                                          \
    "local function part(key, id, member, score, note)\n"                                                                                                                                            \
    "  local claim = pcall_('GET', key .. '.c')\n"                                                                                                                                                   \
    "  if claim == 'done' then\n" /* A late copy; or Celery's client applies a frozen chord again, which sends all members but the last \
     * before it takes the mark of the run before away. Kept no longer than the mark lives. */                                                            \
    "    if redelivered == '1' then return false end\n"                                                                                                                                              \
    "    keep(key, id, member, score)\n"                                                                                                                                                             \
    "    live(key .. '.j', 300)\n"                                                                                                                                                                   \
    "    live(key .. '.d', 300)\n"                                                                                                                                                                   \
    "    return false\n"                                                                                                                                                                             \
    "  end\n"                                                                                                                                                                                        \
    "  keep(key, id, member, score)\n"                                                                                                                                                               \
    "  local n = pcall_(ordered == '1' and 'ZCARD' or 'LLEN', key .. '.j')\n"                                                                                                                        \
    "  for _, tail in ipairs({'.j', '.t', '.s', '.d'}) do live(key .. tail, chord_ttl) end\n"                                                                                                        \
    "  if chord_ttl ~= '0' then live(key, group_ttl) end\n"                                                                                                                                          \
    "  local size = number(pcall_('GET', key .. '.s'))\n"                                                                                                                                            \
    "  local more = number(pcall_('GET', key .. '.t')) or 0\n"                                                                                                                                       \
    "  if not size or n ~= size + more then return false end\n"                                                                                                                                      \
    "  if claim ~= token then\n"                                                                                                                                                                     \
    "    local r = pcall_('SET', key .. '.c', token, 'NX', 'EX', claim_s)\n"                                                                                                                         \
    "    if not r or r.err then return false end\n"                                                                                                                                                  \
    "  end\n"                                                                                                                                                                                        \
    "  pcall_('HSETNX', fire, key, note)\n"                                                                                                                                                          \
    "  return true\n"                                                                                                                                                                                \
    "end\n"                                                                                                                                                                                          \
    "local function effects(i, n, rest)\n"                                                                                                                                                           \
    "  local claimed, stop = false, i + n\n"                                                                                                                                                         \
    "  while i < stop do\n"                                                                                                                                                                          \
    "    local kind, key = A[i], A[i + 1]\n"                                                                                                                                                         \
    "    if kind == 'p' then\n"                                                                                                                                                                      \
    "      if rest then return i end\n"                                                                                                                                                              \
    "      if part(key, A[i + 2], A[i + 3], A[i + 4], A[i + 5]) then claimed = true end\n"                                                                                                           \
    "      i = i + 6\n"                                                                                                                                                                              \
    "    elseif kind == 'r' then\n"                                                                                                                                                                  \
    "      store(key, A[i + 2], A[i + 3])\n"                                                                                                                                                         \
    "      i = i + 4\n"                                                                                                                                                                              \
    "    elseif kind == 's' then\n"                                                                                                                                                                  \
    "      call('DEL', key .. '.c')\n"                                                                                                                                                               \
    "      pcall_('HDEL', fire, key)\n"                                                                                                                                                              \
    "      if A[i + 3] ~= '' then put(key, A[i + 3]) end\n"                                                                                                                                          \
    "      put(key .. '.s', A[i + 2])\n"                                                                                                                                                             \
    "      i = i + 4\n"                                                                                                                                                                              \
    "    elseif kind == 'a' then\n"                                                                                                                                                                  \
    "      if A[i + 3] == '' or pcall_('SADD', key .. '.d', A[i + 3]) == 1 then\n"                                                                                                                   \
    "        pcall_('INCRBY', key .. '.t', A[i + 2])\n"                                                                                                                                              \
    "        live(key .. '.t', chord_ttl)\n"                                                                                                                                                         \
    "        live(key .. '.d', chord_ttl)\n"                                                                                                                                                         \
    "      end\n"                                                                                                                                                                                    \
    "      i = i + 4\n"                                                                                                                                                                              \
    "    else\n"                                                                                                                                                                                     \
    "      ordered, chord_ttl, group_ttl = key, A[i + 2], A[i + 3]\n"                                                                                                                                \
    "      claim_s, token, fire, redelivered = A[i + 4], A[i + 5], A[i + 6], A[i + 7]\n"                                                                                                             \
    "      i = i + 8\n"                                                                                                                                                                              \
    "    end\n"                                                                                                                                                                                      \
    "  end\n"                                                                                                                                                                                        \
    "  if rest then return i end\n"                                                                                                                                                                  \
    "  return claimed\n"                                                                                                                                                                             \
    "end\n" /* After an error the parts stay until their time is up, as in Celery; without .s a late copy repeats nothing. */                                                                        \
    "local function settle(key, how, fire_key)\n"                                                                                                                                                    \
    "  if how == 'b' then\n"                                                                                                                                                                         \
    "    call('DEL', key .. '.j', key .. '.t', key .. '.s', key .. '.d')\n"                                                                                                                          \
    "    call('SET', key .. '.c', 'done', 'EX', 300)\n"                                                                                                                                              \
    "  else\n"                                                                                                                                                                                       \
    "    call('DEL', key .. '.s')\n"                                                                                                                                                                 \
    "  end\n"                                                                                                                                                                                        \
    "  pcall_('HDEL', fire_key, key)\n"                                                                                                                                                              \
    "end\n" /* Is the chord still ours to fire? As Celery's extend: the claim stands, or it has run out and nobody took it. */                                                                       \
    "local function ours(key, by)\n"                                                                                                                                                                 \
    "  local claim = pcall_('GET', key .. '.c')\n"                                                                                                                                                   \
    "  return claim == by or (not claim and call('EXISTS', key .. '.s') == 1)\n"                                                                                                                     \
    "end\n"
