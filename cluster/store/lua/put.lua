-- KEYS: the lists' answers. ARGV: the list, milliseconds that the answer holds, the codes, each with a blank before it.
local key, list, ttl = KEYS[1], ARGV[1], tonumber(ARGV[2])
redis.call('HSET', key, 'a:' .. list, string.format('%.0f', ms + ttl) .. ARGV[3])
redis.call('HDEL', key, 'l:' .. list)
prolong(key, ttl)
return 1
