/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Lua that several scripts share. */

/* A delayed message: its name stands in the zset by due time, and leads to "2" NUL list NUL raw in a hash. Before version
 * 2 the member itself was list NUL id NUL raw. delayed() gives list and raw, or nothing for another version. */
#define DELAYED_LUA                                                                  \
    "local MESSAGES = DELAYED .. ':messages'\n"                                      \
    "local function undelay(name)\n"                                                 \
    "  call('ZREM', DELAYED, name)\n"                                                \
    "  call('HDEL', MESSAGES, name)\n"                                               \
    "end\n"                                                                          \
    "local function delayed(name)\n"                                                 \
    "  local v = call('HGET', MESSAGES, name)\n"                                     \
    "  if not v then\n"                                                              \
    "    local a = string.find(name, '\\0', 1, true)\n"                              \
    "    local b = a and string.find(name, '\\0', a + 1, true)\n"                    \
    "    if b then return string.sub(name, 1, a - 1), string.sub(name, b + 1) end\n" \
    "    undelay(name)\n"                                                            \
    "    return nil\n"                                                               \
    "  end\n"                                                                        \
    "  local a = string.sub(v, 1, 2) == '2\\0' and string.find(v, '\\0', 3, true)\n" \
    "  if a then return string.sub(v, 3, a - 1), string.sub(v, a + 1) end\n"         \
    "  return nil\n"                                                                 \
    "end\n"
