/* SPDX-License-Identifier: Apache-2.0 */
/* The Lua scripts of the transport.
 *
 * Rules that all of them keep:
 *   - A script that has begun to write does not raise: an error in the middle would leave half an effect. Calls that can
 *     meet a foreign value of the wrong type use pcall and go on; our own keys were checked by "enter".
 *   - Times are the server's. Messages are bytes: joined and cut, never decoded and encoded again.
 *   - Work per call is bounded by the caller's count and by a budget of bytes.
 *   - An entry leaves `unacked` or a running hash only by HDEL = 1, in the same call that puts it elsewhere. */
#include "celeryc/transport/scripts.h"

#include "celeryc/result/chord.h"
#include "celeryc/result/effects.h"
#include "celeryc/result/late.h"
#include "celeryc/transport/stored.h"
#include "celeryc/transport/stored_priv.h"

#define SCRIPT_HEAD                                                                        \
    "local A = ARGV\n"                                                                     \
    "local call, pcall_ = redis.call, redis.pcall\n"                                       \
    "local WORKERS, WORKER, ME, EPOCH = A[1], A[2], A[3], A[4]\n"                          \
    "local UNACKED, INDEX, CLAIMS, RUNNING, DELAYED = A[5], A[6], A[7], A[8], A[9]\n"      \
    "local function clock()\n"                                                             \
    "  local t = call('TIME')\n"                                                           \
    "  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)\n"                 \
    "end\n"                                                                                \
    "local function gone()\n"                                                              \
    "  return not call('ZSCORE', WORKERS, ME) or call('HGET', WORKER, 'epoch') ~= EPOCH\n" \
    "end\n"

/* A note is the list that a claim came from; a late-ack task that has started has NUL and its id behind it. The id leads
 * to the number of its deaths. */
#define NOTE_LUA                                                     \
    "local function split_note(note)\n"                              \
    "  local a = note and string.find(note, '\\0', 1, true)\n"       \
    "  if not a then return note end\n"                              \
    "  return string.sub(note, 1, a - 1), string.sub(note, a + 1)\n" \
    "end\n"                                                          \
    "local function count_death(key)\n"                              \
    "  local n = pcall_('INCR', key)\n"                              \
    "  if type(n) ~= 'number' then return 1 end\n"                   \
    "  call('EXPIRE', key, " DEATHS_KEPT_S ")\n"                     \
    "  return n\n"                                                   \
    "end\n"

/* The dead's entry must still be what the restorer saw: argument 11 is its score. */
#define SCRIPT_HEAD_DEAD                                               \
    SCRIPT_HEAD                                                        \
    "local DEAD, SCORE = A[10], A[11]\n"                               \
    "local function alive()\n"                                         \
    "  return DEAD ~= ME and call('ZSCORE', WORKERS, DEAD) ~= SCORE\n" \
    "end\n"

/* 10 node, 11 queues (JSON), 12 run_id, then triples: binding set, permanent binding set, member.
 * Registers. Returns the fields of the claims that stand under our name. */
const struct redis_script script_enter = {
    "enter",
    SCRIPT_HEAD
    "local want = {[WORKERS]='zset', [WORKER]='hash', [UNACKED]='hash', [INDEX]='zset',\n"
    "  [CLAIMS]='hash', [RUNNING]='hash', [DELAYED]='zset', [DELAYED .. ':messages']='hash'}\n"
    "for key, kind in pairs(want) do\n"
    "  local is = call('TYPE', key).ok\n"
    "  if is ~= 'none' and is ~= kind then\n"
    "    return redis.error_reply('FOREIGN the key \"' .. key .. '\" is a ' .. is ..\n"
    "      ', not a ' .. kind)\n"
    "  end\n"
    "end\n"
    "local now = clock()\n"
    "call('ZADD', WORKERS, now, ME)\n"
    "call('HSET', WORKER, 'v', '2', 'node', A[10], 'queues', A[11], 'run', A[12],\n"
    "  'epoch', EPOCH, 'waiters', '')\n"
    "call('HSETNX', WORKER, 'started', now)\n"
    "for i = 13, #A, 3 do\n"
    "  pcall_('SADD', A[i], A[i + 2])\n"
    "  pcall_('SADD', A[i + 1], A[i + 2])\n"
    "end\n"
    "return call('HKEYS', CLAIMS)\n",
};

/* Beats and looks around. Returns now (ms), the next due time of a delayed message or "", then id, score, ... */
const struct redis_script script_beat = {
    "beat",
    SCRIPT_HEAD "if gone() then return redis.status_reply('gone') end\n"
                "local now = clock()\n"
                "call('ZADD', WORKERS, now, ME)\n"
                "local out = {now}\n"
                "local due = call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')\n"
                "out[2] = due[2] or ''\n"
                "local all = call('ZRANGE', WORKERS, 0, -1, 'WITHSCORES')\n"
                "for i = 1, #all do out[i + 2] = all[i] end\n"
                "return out\n",
};

/* 10 client ids, separated by blanks. */
const struct redis_script script_waiters = {
    "waiters",
    SCRIPT_HEAD "if gone() then return redis.status_reply('gone') end\n"
                "call('HSET', WORKER, 'waiters', A[10])\n"
                "return 1\n",
};

/* 10 first seq, 11 how many, 12 lease (s), 13 raw that may start at once or "", 14 number of queues, 15 number of
 * steps, 16 budget of bytes; then for each queue: tail of its stored value, waiting list or "" (known to be empty),
 * the keys of its steps. Order of the queues = order of service.
 *
 * Takes from the waiting lists first, then step by step from the queues, each first its share and then the rest.
 * The clock is read before anything is taken. What the waiting lists hold beyond that goes back to the head. Returns 1 when everything was found empty else 0, then for each claim: index of its queue, 1 when started, raw. Seqs count up. */
const struct redis_script script_claim = {
    "claim",
    SCRIPT_HEAD
    "if gone() then return redis.status_reply('gone') end\n"
    "local seq, n, lease, hot = tonumber(A[10]), tonumber(A[11]), tonumber(A[12]), A[13]\n"
    "local t = call('TIME')\n"
    "local score = string.format('%.3f', tonumber(t[1]) + tonumber(t[2]) / 1000000 + lease)\n"
    "local nq, ns, budget = tonumber(A[14]), tonumber(A[15]), tonumber(A[16])\n"
    "local step = 2 + ns\n"
    "local function base(q) return 16 + (q - 1) * step end\n"
    "local raws, queues, keys, got, biggest = {}, {}, {}, 0, 1\n"
    "local function take(list, key, q, want)\n"
    "  local chunk, had = 1, 0\n"
    "  if biggest > 1 then chunk = math.max(1, math.floor(budget / biggest)) end\n"
    "  while had < want and budget > 0 do\n"
    "    if chunk > want - had then chunk = want - had end\n"
    "    local r = pcall_('RPOP', list, chunk)\n"
    "    if not r or r.err then break end\n"
    "    for i = 1, #r do\n"
    "      local raw = r[i]\n"
    "      local size = #raw\n"
    "      got = got + 1\n"
    "      raws[got], queues[got], keys[got] = raw, q, key\n"
    "      budget = budget - size\n"
    "      if size > biggest then biggest = size end\n"
    "    end\n"
    "    had = had + #r\n"
    "    if #r < chunk then break end\n"
    "    chunk = math.max(1, math.floor(budget / biggest))\n"
    "  end\n"
    "  return had\n"
    "end\n"
    "for q = 1, nq do\n"
    "  local b = base(q)\n"
    "  local waiting = A[b + 2]\n"
    "  if waiting ~= '' then\n"
    "    if got < n then take(waiting, A[b + 3], q, n - got) end\n"
    "    if got >= n or budget <= 0 then\n"
    "      for i = 1, 1000 do\n"
    "        local r = pcall_('LMOVE', waiting, A[b + 3], 'LEFT', 'RIGHT')\n"
    "        if not r or type(r) == 'table' then break end\n"
    "      end\n"
    "    end\n"
    "  end\n"
    "end\n"
    "local from_waiting = got\n"
    "for s = 1, ns do\n"
    "  if got >= n then break end\n"
    "  if nq > 1 then\n"
    "    for q = 1, nq do\n"
    "      if got >= n then break end\n"
    "      local key = A[base(q) + 2 + s]\n"
    "      take(key, key, q, math.ceil((n - got) / (nq - q + 1)))\n"
    "    end\n"
    "  end\n"
    "  for q = 1, nq do\n"
    "    if got >= n then break end\n"
    "    local key = A[base(q) + 2 + s]\n"
    "    take(key, key, q, n - got)\n"
    "  end\n"
    "end\n"
    "local out = {0}\n"
    "if got < n and budget > 0 then\n"
    "  out[1] = 1\n"
    "end\n"
    "if got == 0 then return out end\n"
    "local values, scores, notes, o, u, k = {}, {}, {}, 1, 0, 0\n"
    "for i = 1, got do\n"
    "  local field = ME .. ':' .. string.format('%048d', seq + i - 1)\n"
    "  local raw, q = raws[i], queues[i]\n"
    "  local value = '[' .. raw .. A[base(q) + 1]\n"
    "  notes[2 * i - 1], notes[2 * i] = field, keys[i]\n"
    "  local started = 0\n"
    "  if i <= from_waiting and hot ~= '' and raw == hot then\n"
    "    hot, started = '', 1\n"
    "    call('HSET', RUNNING, field, value)\n"
    "  else\n"
    "    values[u + 1], values[u + 2] = field, value\n"
    "    scores[u + 1], scores[u + 2] = score, field\n"
    "    u = u + 2\n"
    "  end\n"
    "  out[o + 1], out[o + 2], out[o + 3] = q, started, raw\n"
    "  o = o + 3\n"
    "end\n"
    "if u > 0 then\n"
    "  call('HSET', UNACKED, unpack(values))\n"
    "  call('ZADD', INDEX, unpack(scores))\n"
    "end\n"
    "call('HSET', CLAIMS, unpack(notes))\n"
    "return out\n",
};

/* 10 number of this batch, 11 list for messages that cannot be pushed, then the operations, each a letter and its
 * arguments:
 *   S field                                               start: unacked -> running
 *   F field started key value ttl END                     finish: record and END if the claim was there
 *   R field started end raw tail                          return: end "R" (head) or "L"; raw "" = as it was, cut from
 *                                                         the stored value, whose tail has that many bytes
 *   D field started due name nonce raw tail               delay until due (ms), under the name if it is free, else
 *                                                         under name NUL nonce; name "": under the nonce
 *   P field started list item key value ttl END           park: item to the dead-letter list, record, END
 *   C key token how fire END                              fire the chord of this key: END if the claim still is token's
 *   X END                                                 just that
 *   G marker END                                          END unless the marker is there, which is set
 *   E key                                                 delete
 *   M field id                                            note that a late-ack task has started
 *   N field key max                                       its child has died: count it under key and unmark the note;
 *                                                         3 when that makes max
 *   T key value ttl                                       store
 *   U list raw                                            push
 * END is: n m (list raw)*n and m arguments of effects (celeryc/result/effects.h), parts last.
 * Returns one character for each: 1 done, 0 claim lost, 2 done and a chord was claimed, 3 dead too often. The reply of the last batch is
 * kept, so that a batch sent again after an unknown answer is answered, not done again. */
const struct redis_script script_ops = {
    "ops",
    SCRIPT_HEAD NOTE_LUA DELAYED_LUA
    "local last = call('HMGET', WORKER, 'epoch', 'batch', 'answer')\n"
    "if last[1] ~= EPOCH or not call('ZSCORE', WORKERS, ME) then\n"
    "  return redis.status_reply('gone')\n"
    "end\n"
    "local number_of, before = tonumber(A[10]), tonumber(last[2] or '0')\n"
    "if number_of == before then return last[3] end\n"
    "if number_of < before then return redis.status_reply('old') end\n"
    "local stray = A[11]\n"
    "local out, notes, index, n_notes, n_index, n = {}, {}, {}, 0, 0, 0\n"
    "local width = {S=2, R=6, D=8, T=4, U=3, E=2, M=3, N=4}\n"
    "local head = {F=8, P=10, C=7, X=3, G=4}\n"
    "local function width_of(i)\n"
    "  local h = head[A[i]]\n"
    "  if not h then return width[A[i]] end\n"
    "  return h + 2 * tonumber(A[i + h - 2]) + tonumber(A[i + h - 1])\n"
    "end\n"
    /* Starts, and ends of what has started, in one call each. What is missing there is found by its note, which always
     * goes with it. */
    "local starts, ends, n_starts, n_ends = {}, {}, 0, 0\n"
    "local i = 12\n"
    "while A[i] do\n"
    "  local kind = A[i]\n"
    "  if kind == 'F' then\n"
    "    if A[i + 2] == '1' then\n"
    "      n_ends = n_ends + 1\n"
    "      ends[n_ends] = A[i + 1]\n"
    "    end\n"
    "  elseif kind == 'S' then\n"
    "    n_starts = n_starts + 1\n"
    "    starts[n_starts] = A[i + 1]\n"
    "  end\n"
    "  i = i + width_of(i)\n"
    "end\n"
    "local ended, all_ended = {}, n_ends == 0\n"
    "if n_ends > 0 then\n"
    "  all_ended = call('HDEL', RUNNING, unpack(ends)) == n_ends\n"
    "  if not all_ended then\n"
    "    for k = 1, n_ends do ended[ends[k]] = call('HEXISTS', CLAIMS, ends[k]) == 1 end\n"
    "  end\n"
    "end\n"
    "local started = {}\n"
    "if n_starts > 0 then\n"
    "  local values = call('HMGET', UNACKED, unpack(starts))\n"
    "  local from, to, m = {}, {}, 0\n"
    "  for k = 1, n_starts do\n"
    "    if values[k] then\n"
    "      m = m + 1\n"
    "      from[m] = starts[k]\n"
    "      to[2 * m - 1], to[2 * m] = starts[k], values[k]\n"
    "      started[starts[k]] = true\n"
    "    end\n"
    "  end\n"
    "  if m > 0 then\n"
    "    call('HSET', RUNNING, unpack(to))\n"
    "    call('HDEL', UNACKED, unpack(from))\n"
    "    call('ZREM', INDEX, unpack(from))\n"
    "  end\n"
    "end\n"
    "local function take(field, is_started)\n"
    "  n_notes = n_notes + 1\n"
    "  notes[n_notes] = field\n"
    "  local first, second = UNACKED, RUNNING\n"
    "  if is_started == '1' then first, second = RUNNING, UNACKED end\n"
    "  local was = first\n"
    "  if call('HDEL', first, field) == 0 then\n"
    "    was = second\n"
    "    if call('HDEL', second, field) == 0 then return false end\n"
    "  end\n"
    "  if was == UNACKED then\n"
    "    n_index = n_index + 1\n"
    "    index[n_index] = field\n"
    "  end\n"
    "  return true\n"
    "end\n"
    "local function raw_of(field, raw, tail)\n"
    "  if raw ~= '' then return raw end\n"
    "  local value = call('HGET', UNACKED, field) or call('HGET', RUNNING, field)\n"
    "  return value and string.sub(value, 2, -1 - tonumber(tail))\n"
    "end\n"
    "local function push(how, list, raw)\n"
    "  local r = pcall_(how, list, raw)\n"
    "  if type(r) == 'table' then call('LPUSH', stray, raw) end\n"
    "end\n" RESULT_EFFECTS_LUA "local function finish(from)\n"
    "  local pushes, width_x = tonumber(A[from]), tonumber(A[from + 1])\n"
    "  local x, claimed = from + 2 + 2 * pushes, false\n"
    "  local parts = x + width_x\n"
    "  if width_x > 0 then parts = effects(x, width_x, true) end\n"
    "  for p = from + 2, x - 2, 2 do push('LPUSH', A[p], A[p + 1]) end\n"
    "  if width_x > 0 then claimed = effects(parts, x + width_x - parts) end\n"
    "  return claimed and '2' or '1'\n"
    "end\n"
    "i = 12\n"
    "while A[i] do\n"
    "  local kind, field, ok = A[i], A[i + 1], true\n"
    "  local answer = '1'\n"
    "  if kind == 'F' then\n"
    "    if A[i + 2] == '1' then\n"
    "      ok = all_ended or ended[field]\n"
    "      n_notes = n_notes + 1\n"
    "      notes[n_notes] = field\n"
    "    else\n"
    "      ok = take(field, '0')\n"
    "    end\n"
    "    if ok then\n"
    "      store(A[i + 3], A[i + 4], A[i + 5])\n"
    "      answer = finish(i + 6)\n"
    "    end\n"
    "  elseif kind == 'S' then\n"
    "    ok = started[field] or call('HEXISTS', RUNNING, field) == 1\n"
    "  elseif kind == 'T' then\n"
    "    store(field, A[i + 2], A[i + 3])\n"
    "  elseif kind == 'U' then\n"
    "    push('LPUSH', field, A[i + 2])\n"
    "  elseif kind == 'E' then\n"
    "    call('DEL', field)\n"
    "  elseif kind == 'M' then\n"
    "    local list = split_note(call('HGET', CLAIMS, field))\n"
    "    if list and call('HEXISTS', UNACKED, field) == 1 then\n"
    "      call('HSET', CLAIMS, field, list .. '\\0' .. A[i + 2])\n"
    "    end\n"
    "  elseif kind == 'N' then\n"
    "    ok = call('HEXISTS', UNACKED, field) == 1 or call('HEXISTS', RUNNING, field) == 1\n"
    "    if ok then\n"
    "      local list = split_note(call('HGET', CLAIMS, field))\n"
    "      if list then call('HSET', CLAIMS, field, list) end\n"
    "      if count_death(A[i + 2]) >= tonumber(A[i + 3]) then answer = '3' end\n"
    "    end\n"
    "  elseif kind == 'X' then\n"
    "    answer = finish(i + 1)\n"
    "  elseif kind == 'G' then\n"
    "    if call('SET', field, '1', 'NX', 'EX', 86400) then answer = finish(i + 2) end\n"
    "  elseif kind == 'C' then\n"
    "    ok = ours(field, A[i + 2])\n"
    "    if ok then\n"
    "      settle(field, A[i + 3], A[i + 4])\n"
    "      answer = finish(i + 5)\n"
    "    end\n"
    "  elseif kind == 'P' then\n"
    "    ok = take(field, A[i + 2])\n"
    "    if ok then\n"
    "      push('LPUSH', A[i + 3], A[i + 4])\n"
    "      store(A[i + 5], A[i + 6], A[i + 7])\n"
    "      answer = finish(i + 8)\n"
    "    end\n"
    "  else\n"
    "    local raw = raw_of(field, A[i + width[kind] - 2], A[i + width[kind] - 1])\n"
    "    local list = split_note(call('HGET', CLAIMS, field)) or stray\n"
    "    ok = take(field, A[i + 2])\n"
    "    if ok and kind == 'R' then\n"
    "      push(A[i + 3] .. 'PUSH', list, raw)\n"
    "    elseif ok then\n"
    "      local name = A[i + 4]\n"
    "      if name == '' then\n"
    "        name = A[i + 5]\n"
    "      elseif call('HEXISTS', MESSAGES, name) == 1 then\n"
    "        name = name .. '\\0' .. A[i + 5]\n"
    "      end\n"
    "      call('HSET', MESSAGES, name, '2\\0' .. list .. '\\0' .. raw)\n"
    "      call('ZADD', DELAYED, A[i + 3], name)\n"
    "    end\n"
    "  end\n"
    "  n = n + 1\n"
    "  out[n] = ok and answer or '0'\n"
    "  i = i + width_of(i)\n"
    "end\n"
    "if n_index > 0 then call('ZREM', INDEX, unpack(index)) end\n"
    "if n_notes > 0 then call('HDEL', CLAIMS, unpack(notes)) end\n"
    "local answer = table.concat(out)\n"
    "call('HSET', WORKER, 'batch', A[10], 'answer', answer)\n"
    "return answer\n",
};

/* 10 lease (s), then fields. */
const struct redis_script script_renew = {
    "renew",
    SCRIPT_HEAD "local t = call('TIME')\n"
                "local score = string.format('%.3f', tonumber(t[1]) + tonumber(t[2]) / 1000000 + "
                "tonumber(A[10]))\n"
                "local args = {}\n"
                "for i = 11, #A do\n"
                "  args[2 * (i - 10) - 1], args[2 * (i - 10)] = score, A[i]\n"
                "end\n"
                "return call('ZADD', INDEX, 'XX', unpack(args))\n",
};

/* 10 after how long of silence a worker is dead (ms), then pairs: waiting list, queue.
 * When no other worker lives, delayed messages go back to their lists, a part of them in each call. Returns 1 when gone
 * for good, 0 when claims remain (others will restore them), 2 when there is more to give back. */
const struct redis_script script_leave = {
    "leave",
    SCRIPT_HEAD DELAYED_LUA
    "if gone() then return 1 end\n"
    "for i = 11, #A, 2 do\n"
    "  for j = 1, 1000 do\n"
    "    local r = pcall_('LMOVE', A[i], A[i + 1], 'LEFT', 'RIGHT')\n"
    "    if not r or type(r) == 'table' then break end\n"
    "  end\n"
    "end\n"
    "local alone, now = true, clock()\n"
    "local others = call('ZRANGE', WORKERS, 0, -1, 'WITHSCORES')\n"
    "for i = 1, #others, 2 do\n"
    "  if others[i] ~= ME and tonumber(others[i + 1]) > now - tonumber(A[10]) then alone = false "
    "end\n"
    "end\n"
    "local budget, moved = " GIVE_BACK_BYTES ", 0\n"
    "local due = alone and call('ZRANGE', DELAYED, 0, " GIVE_BACK_MAX " - 1) or {}\n"
    "for k = 1, #due do\n"
    "  local list, raw = delayed(due[k])\n"
    "  if list then\n"
    "    if type(pcall_('LPUSH', list, raw)) == 'number' then\n"
    "      undelay(due[k])\n"
    "      moved, budget = moved + 1, budget - #raw\n"
    "    end\n"
    "    if budget <= 0 then break end\n"
    "  end\n"
    "end\n"
    "if moved > 0 and call('EXISTS', DELAYED) == 1 then return 2 end\n"
    "if call('HLEN', CLAIMS) + call('HLEN', RUNNING) > 0 then return 0 end\n"
    "call('ZREM', WORKERS, ME)\n"
    "call('DEL', WORKER, CLAIMS, RUNNING)\n"
    "return 1\n",
};

/* 10 how many at most. Moves what is due to the head of its list, the earliest nearest the head. Returns how many,
 * now (ms) and the next due time or "". */
const struct redis_script script_promote = {
    "promote",
    SCRIPT_HEAD DELAYED_LUA
    "local now = clock()\n"
    "local due = call('ZRANGEBYSCORE', DELAYED, '-inf', now, 'LIMIT', 0, A[10])\n"
    "for k = #due, 1, -1 do\n"
    "  local list, raw = delayed(due[k])\n"
    "  if list and type(pcall_('RPUSH', list, raw)) == 'number' then\n"
    "    undelay(due[k])\n"
    "  else\n"
    "    call('ZADD', DELAYED, 'XX', now + 60000, due[k])\n"
    "  end\n"
    "end\n"
    "local nxt = call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')\n"
    "return {#due, now, nxt[2] or ''}\n",
};

/* 10 first seq, 11 lease (s), 12 number of queues, 13 number of steps; for each queue: tail of its stored value and its
 * lists; then names of delayed messages. Claims those that are there and belong to these queues. Returns for each name:
 * index of its queue or 0, raw. */
const struct redis_script script_claim_delayed = {
    "claim_delayed",
    SCRIPT_HEAD DELAYED_LUA
    "if gone() then return redis.status_reply('gone') end\n"
    "local nq, ns, tails, out = tonumber(A[12]), tonumber(A[13]), {}, {}\n"
    "for q = 1, nq do\n"
    "  local at = 14 + (q - 1) * (ns + 1)\n"
    "  for s = 1, ns do tails[A[at + s]] = {q, A[at]} end\n"
    "end\n"
    "local score = string.format('%.3f', clock() / 1000 + tonumber(A[11]))\n"
    "local seq = tonumber(A[10])\n"
    "for i = 14 + nq * (ns + 1), #A do\n"
    "  local list, raw\n"
    "  if call('ZSCORE', DELAYED, A[i]) then list, raw = delayed(A[i]) end\n"
    "  local queue = list and tails[list]\n"
    "  if queue then\n"
    "    local field = ME .. ':' .. string.format('%048d', seq + #out / 2)\n"
    "    call('HSET', UNACKED, field, '[' .. raw .. queue[2])\n"
    "    call('ZADD', INDEX, score, field)\n"
    "    call('HSET', CLAIMS, field, list)\n"
    "    undelay(A[i])\n"
    "    out[#out + 1], out[#out + 2] = queue[1], raw\n"
    "  else\n"
    "    out[#out + 1], out[#out + 2] = 0, ''\n"
    "  end\n"
    "end\n"
    "return out\n",
};

/* 10 dead, 11 its score, 12 its hash, 13 lock, 14 life of the lock (ms).
 * Begins a restore: status "alive", "busy" (another one restores), "strange" (unknown version), or
 * node, queues, waiters, run. */
const struct redis_script script_mourn = {
    "mourn",
    SCRIPT_HEAD_DEAD
    "if gone() then return redis.status_reply('gone') end\n"
    "if alive() then return redis.status_reply('alive') end\n"
    "local h = call('HMGET', A[12], 'v', 'node', 'queues', 'waiters', 'run')\n"
    "if h[1] and h[1] ~= '1' and h[1] ~= '2' then return redis.status_reply('strange') end\n"
    "if not call('SET', A[13], ME, 'NX', 'PX', A[14]) and call('GET', A[13]) ~= ME then\n"
    "  return redis.status_reply('busy')\n"
    "end\n"
    "return {h[2] or '', h[3] or '[]', h[4] or '', h[5] or ''}\n",
};

/* 10 dead, 11 score, 12 its claims, 13 its running hash, then pairs: waiting list, queue.
 * Empties the waiting lists into the heads of their queues. Returns the fields of its claims. */
const struct redis_script script_collect = {
    "collect",
    SCRIPT_HEAD_DEAD "if alive() then return redis.status_reply('alive') end\n"
                     "for i = 14, #A, 2 do\n"
                     "  for j = 1, 1000 do\n"
                     "    local r = pcall_('LMOVE', A[i], A[i + 1], 'LEFT', 'RIGHT')\n"
                     "    if not r or type(r) == 'table' then break end\n"
                     "  end\n"
                     "end\n"
                     "local fields = call('HKEYS', A[12])\n"
                     "local seen = {}\n"
                     "for i = 1, #fields do seen[fields[i]] = true end\n"
                     "local running = call('HKEYS', A[13])\n"
                     "for i = 1, #running do\n"
                     "  if not seen[running[i]] then fields[#fields + 1] = running[i] end\n"
                     "end\n"
                     "return fields\n",
};

/* 10 dead (or me), 11 score, 12 its claims, 13 its running hash, 14 budget of bytes, 15 start of the keys of deaths,
 * 16 how many deaths are too many, then fields.
 * Returns for each, until the budget is used up: where ("u" unacked, "r" running, "p" unacked and about to die too
 * often, "" nowhere: the note is removed), the note, the stored value. */
const struct redis_script script_fetch = {
    "fetch",
    SCRIPT_HEAD_DEAD NOTE_LUA
    "if alive() then return redis.status_reply('alive') end\n"
    "local budget, out, o = tonumber(A[14]), {}, 0\n"
    "for i = 17, #A do\n"
    "  local place, value = 'u', call('HGET', UNACKED, A[i])\n"
    "  if not value then place, value = 'r', call('HGET', A[13], A[i]) end\n"
    "  if not value then place, value = '', '' end\n"
    "  local note = call('HGET', A[12], A[i]) or ''\n"
    "  local _, id = split_note(note)\n"
    "  if id and place == 'u' then\n"
    "    local n = pcall_('GET', A[15] .. id)\n"
    "    n = type(n) == 'string' and tonumber(n) or 0\n"
    "    if n + 1 >= tonumber(A[16]) then place = 'p' end\n"
    "  end\n"
    "  out[o + 1], out[o + 2], out[o + 3] = place, note, value\n"
    "  o = o + 3\n"
    "  if place == '' then call('HDEL', A[12], A[i]) end\n"
    "  budget = budget - #value\n"
    "  if budget <= 0 then break end\n"
    "end\n"
    "return out\n",
};

/* 10 dead, 11 score, 12 its claims, 13 start of the keys of deaths, then triples: field, list, raw. Back to the head, in
 * the order given (the last one is consumed first); the death of what had started is counted. Returns how many. */
const struct redis_script script_requeue = {
    "requeue",
    SCRIPT_HEAD_DEAD NOTE_LUA "if gone() then return redis.status_reply('gone') end\n"
                              "if alive() then return redis.status_reply('alive') end\n"
                              "local moved = 0\n"
                              "for i = 14, #A, 3 do\n"
                              "  local field = A[i]\n"
                              "  if call('HEXISTS', UNACKED, field) == 1 then\n"
                              "    local r = pcall_('RPUSH', A[i + 1], A[i + 2])\n"
                              "    if type(r) == 'number' then\n"
                              "      local _, id = split_note(call('HGET', A[12], field))\n"
                              "      call('HDEL', UNACKED, field)\n"
                              "      call('ZREM', INDEX, field)\n"
                              "      call('HDEL', A[12], field)\n"
                              "      if id then count_death(A[13] .. id) end\n"
                              "      moved = moved + 1\n"
                              "    end\n"
                              "  else\n"
                              "    call('HDEL', A[12], field)\n"
                              "  end\n"
                              "end\n"
                              "return moved\n",
};

/* 10 dead, 11 score, 12 its claims, 13 its running hash, 14 first seq, then fields.
 * Moves started early-ack tasks, and late-ack ones that die too often, into our running hash; the note goes along.
 * Returns for each: the note, the stored value (or ""). */
const struct redis_script script_adopt = {
    "adopt",
    SCRIPT_HEAD_DEAD NOTE_LUA
    "if gone() then return redis.status_reply('gone') end\n"
    "if alive() then return redis.status_reply('alive') end\n"
    "local seq, out = tonumber(A[14]), {}\n"
    "for i = 15, #A do\n"
    "  local note = call('HGET', A[12], A[i]) or ''\n"
    "  local _, id = split_note(note)\n"
    "  local value, from = call('HGET', A[13], A[i]), A[13]\n"
    "  if not value and id then value, from = call('HGET', UNACKED, A[i]), UNACKED end\n"
    "  if value then\n"
    "    local field = ME .. ':' .. string.format('%048d', seq + i - 15)\n"
    "    call('HDEL', from, A[i])\n"
    "    call('ZREM', INDEX, A[i])\n"
    "    call('HSET', RUNNING, field, value)\n"
    "    call('HSET', CLAIMS, field, note)\n"
    "    call('HDEL', A[12], A[i])\n"
    "  end\n"
    "  out[2 * (i - 14) - 1], out[2 * (i - 14)] = note, value or ''\n"
    "end\n"
    "return out\n",
};

/* 10 dead, 11 score, 12 its claims, 13 its running hash, 14 its hash, 15 lock, then waiting lists.
 * The last step, only when nothing is left. Returns 1, or 0 when something is. */
const struct redis_script script_bury = {
    "bury",
    SCRIPT_HEAD_DEAD "if alive() then return redis.status_reply('alive') end\n"
                     "if call('HLEN', A[12]) + call('HLEN', A[13]) > 0 then return 0 end\n"
                     "for i = 16, #A do\n"
                     "  if call('EXISTS', A[i]) == 1 then return 0 end\n"
                     "end\n"
                     "call('ZREM', WORKERS, DEAD)\n"
                     "call('DEL', A[12], A[13], A[14], A[15])\n"
                     "return 1\n",
};

/* kombu's sweep: 10 mutex, 11 token, 12 visibility timeout (s), 13 how many at most, 14 budget of bytes,
 * 15 start of the names of binding sets. A program that is no worker gives "" for "me".
 * Status "busy" when another one sweeps; else for each expired entry: field, stored value, members of its exchange's
 * binding set (an array, empty for the anonymous exchange). Index entries without a record are removed. */
const struct redis_script stored_sweep = {
    "sweep",
    SCRIPT_HEAD "if ME ~= '' and gone() then return redis.status_reply('gone') end\n"
                "local ceiling = clock() / 1000 - tonumber(A[12])\n"
                "local fields = call('ZRANGEBYSCORE', INDEX, 0, string.format('%.3f', ceiling),\n"
                "  'LIMIT', 0, A[13])\n"
                "if #fields == 0 then return {} end\n"
                "if not call('SET', A[10], A[11], 'NX', 'PX', 300000) then return "
                "redis.status_reply('busy') end\n"
                "local out, o, budget = {}, 0, tonumber(A[14])\n"
                "for i = 1, #fields do\n"
                "  local value = call('HGET', UNACKED, fields[i])\n"
                "  if value then\n"
                "    local ok, v = pcall(cjson.decode, value)\n"
                "    local exchange = ok and type(v) == 'table' and v[2]\n"
                "    local members = {}\n"
                "    if type(exchange) == 'string' and exchange ~= '' then\n"
                "      members = pcall_('SMEMBERS', A[15] .. exchange)\n"
                "      if members.err then members = {} end\n"
                "    end\n"
                "    out[o + 1], out[o + 2], out[o + 3] = fields[i], value, members\n"
                "    o = o + 3\n"
                "    budget = budget - #value\n"
                "    if budget <= 0 then break end\n"
                "  else\n"
                "    call('ZREM', INDEX, fields[i])\n"
                "  end\n"
                "end\n"
                "if o == 0 then call('DEL', A[10]) end\n"
                "return out\n",
};

/* 10 mutex, 11 token, 12 visibility timeout (s), then for each: field, raw, number of lists, lists. In the order given,
 * the last one is consumed first. An entry that was renewed, acked or taken meanwhile is left alone. */
const struct redis_script stored_sweep_move = {
    "sweep_move",
    SCRIPT_HEAD
    "local ceiling = clock() / 1000 - tonumber(A[12])\n"
    "local i, moved = 13, 0\n"
    "local mine = call('GET', A[10]) == A[11]\n"
    "while mine and A[i] do\n"
    "  local field, raw, n = A[i], A[i + 1], tonumber(A[i + 2])\n"
    "  local score = call('ZSCORE', INDEX, field)\n"
    "  if score and tonumber(score) <= ceiling and call('HEXISTS', UNACKED, field) == 1 then\n"
    "    local pushed = 0\n"
    "    for k = 1, n do\n"
    "      if type(pcall_('RPUSH', A[i + 2 + k], raw)) == 'number' then pushed = pushed + 1 end\n"
    "    end\n"
    "    if pushed > 0 then\n"
    "      call('HDEL', UNACKED, field)\n"
    "      call('ZREM', INDEX, field)\n"
    "      moved = moved + 1\n"
    "    end\n"
    "  end\n"
    "  i = i + 3 + n\n"
    "end\n"
    "if mine then call('DEL', A[10]) end\n"
    "return moved\n",
};

const struct redis_script *const transport_scripts[] = {
    &script_enter,
    &script_beat,
    &script_waiters,
    &script_claim,
    &script_ops,
    &script_renew,
    &script_leave,
    &script_promote,
    &script_claim_delayed,
    &script_mourn,
    &script_collect,
    &script_fetch,
    &script_requeue,
    &script_adopt,
    &script_bury,
    &stored_sweep,
    &stored_sweep_move,
    &chord_read,
    &chord_scan,
    &chord_leaves,
    &chord_extend,
    &result_late_script,
    NULL,
};
