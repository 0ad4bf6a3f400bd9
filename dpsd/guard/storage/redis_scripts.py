"""What Redis runs whole for `redis_store`, in Lua. KEYS and ARGV are in the order of the calls.

Numbers travel as text where a script does not calculate with them: Lua would round them.
"""

ADD = """
if redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""

CHANGE = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if not old then return 0 end
redis.call('HDEL', KEYS[2], cjson.decode(old)['name'])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""

CHARGE = """
local total = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0') + tonumber(ARGV[2])
local most = tonumber(ARGV[3])
if most >= 0 and total > most then return false end
return redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
"""

# Equal times are ordered by their places, which have equal lengths.
NOTE = """
local place = string.format('%016d', redis.call('INCR', KEYS[1]))
redis.call('HSET', KEYS[2], place, ARGV[2])
redis.call('ZADD', KEYS[3], ARGV[1], place)
redis.call('ZADD', KEYS[4], ARGV[1], place)
if KEYS[5] then redis.call('ZADD', KEYS[5], ARGV[1], place) end
return 1
"""

WATCH = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
return 1
"""

SAW = """
local old = redis.call('HGET', KEYS[3], ARGV[2])
local first, images, place = ARGV[3], tonumber(ARGV[4]), nil
if old then
  local f, _, n, p = string.match(old, '(%S+) (%S+) (%S+) (%S+)')
  first, images, place = f, images + tonumber(n), p
else
  place = tostring(redis.call('INCR', KEYS[1]))
  redis.call('SADD', KEYS[2], ARGV[1])
end
local row = first .. ' ' .. ARGV[3] .. ' ' .. string.format('%.0f', images) .. ' ' .. place
redis.call('HSET', KEYS[3], ARGV[2], row)
return 1
"""

FORGET = """
local id = ARGV[1]
local old = redis.call('HGET', KEYS[1], id)
if old then redis.call('HDEL', KEYS[2], cjson.decode(old)['name']) end
redis.call('HDEL', KEYS[1], id)
for _, place in ipairs(redis.call('ZRANGE', KEYS[5], 0, -1)) do
  redis.call('HDEL', KEYS[3], place)
  redis.call('ZREM', KEYS[4], place)
  redis.call('ZREM', KEYS[11], place)
end
redis.call('DEL', KEYS[5], KEYS[6], KEYS[10])
redis.call('HDEL', KEYS[7], id)
redis.call('ZREM', KEYS[8], id)
redis.call('SREM', KEYS[9], id)
return 1
"""

FORGET_TRACES = """
for _, place in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  redis.call('HDEL', KEYS[1], place)
  redis.call('ZREM', KEYS[2], place)
  redis.call('ZREM', KEYS[8], place)
end
redis.call('DEL', KEYS[3], KEYS[7])
redis.call('HDEL', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('SREM', KEYS[6], ARGV[1])
return 1
"""
