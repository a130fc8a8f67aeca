-- KEYS: the rules' head, what holds the parts of the last known head, or of nothing. ARGV: that head. The answers are the
-- head and the number of parts, -1 when the head is another than the caller's: then it asks again.
local head = headed(KEYS[1])
if head ~= ARGV[1] then
  return {head, -1}
end
return {head, redis.call('TYPE', KEYS[2]).ok == 'hash' and redis.call('HLEN', KEYS[2]) or 0}
