/* SPDX-License-Identifier: Apache-2.0 */
/* The scripts of chord.h. They are harmless when they are run again. */
#include "celeryc/result/chord.h"

#include "celeryc/result/effects.h"

#define HEAD           \
    "local A = ARGV\n" \
    "local call, pcall_ = redis.call, redis.pcall\n"

const struct redis_script chord_read = {
    "chord_read",
    HEAD RESULT_EFFECTS_LUA
    "local key = A[1]\n"
    "if not ours(key, A[2]) then return redis.status_reply('lost') end\n"
    "local saved = pcall_('GET', key)\n"
    "if type(saved) ~= 'string' then saved = '' end\n"
    "local parts\n"
    "if A[3] == '1' then parts = pcall_('ZRANGE', key .. '.j', 0, -1)\n"
    "else parts = pcall_('LRANGE', key .. '.j', 0, -1) end\n"
    "if parts.err then parts = {} end\n"
    "local bytes = #saved\n"
    "for i = 1, #parts do bytes = bytes + #parts[i] end\n"
    "if bytes > tonumber(A[4]) then return redis.status_reply('large') end\n"
    "return {saved, parts}\n",
};

const struct redis_script chord_scan = {
    "chord_scan",
    "local call, pcall_, A = redis.call, redis.pcall, ARGV\n"
    "local notes = pcall_('HRANDFIELD', A[1], A[5], 'WITHVALUES')\n"
    "local out = {}\n"
    "for i = 1, #notes, 2 do\n"
    "  local key, note = notes[i], notes[i + 1]\n"
    "  if string.sub(note, 1, #A[4]) == A[4] then\n"
    "    local claim = pcall_('GET', key .. '.c')\n"
    "    if claim == 'done' or call('EXISTS', key .. '.s') == 0 then\n"
    "      call('HDEL', A[1], key)\n"
    "    elseif not claim then\n"
    "      call('SET', key .. '.c', A[2], 'EX', A[3])\n"
    "      out[#out + 1], out[#out + 2] = key, note\n"
    "    end\n"
    "  end\n"
    "end\n"
    "return out\n",
};

const struct redis_script chord_leaves = {
    "chord_leaves",
    "local out = {}\n"
    "for i = 1, #ARGV do\n"
    "  local v = redis.pcall('GET', ARGV[i])\n"
    "  out[i] = type(v) == 'string' and v or false\n"
    "end\n"
    "return out\n",
};

const struct redis_script chord_extend = {
    "chord_extend",
    HEAD RESULT_EFFECTS_LUA "if not ours(A[1], A[2]) then return 0 end\n"
                            "call('SET', A[1] .. '.c', A[2], 'EX', A[3])\n"
                            "return 1\n",
};

const struct redis_script chord_settle = {
    "chord_settle",
    HEAD RESULT_EFFECTS_LUA "if not ours(A[1], A[2]) then return 0 end\n"
                            "settle(A[1], A[3], A[4])\n"
                            "return 1\n",
};
