-- KEYS: for which domains the network is known good. ARGV: the domain, milliseconds, the most domains that are kept.
-- A domain's value is when its mark ends. The mark that ends first makes room.
local key, domain, ttl, most = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local all = redis.call('HGETALL', key)
local last, first, ends, kept = ms + ttl, nil, nil, 0
for i = 1, #all, 2 do
  local at = tonumber(all[i + 1]) or 0
  if at <= ms then
    redis.call('HDEL', key, all[i])
  elseif all[i] ~= domain then
    kept = kept + 1
    last = math.max(last, at)
    if not ends or at < ends then
      first, ends = all[i], at
    end
  end
end
if kept >= most then
  redis.call('HDEL', key, first)
end
redis.call('HSET', key, domain, string.format('%.0f', ms + ttl))
redis.call('PEXPIREAT', key, string.format('%.0f', last))
return 1
