-- KEYS: the rules' head, the parts of the new rules, those of the old ones. ARGV: the old head, the new one, the number of
-- new parts, the milliseconds that old parts are kept for those who read them still. The answers are 1 when the new rules
-- are in force, 0 when the head is another than the caller's, -1 when the new parts are not all there; and the head.
local head = headed(KEYS[1])
if head ~= ARGV[1] then
  return {0, head}
end
if redis.call('HLEN', KEYS[2]) ~= tonumber(ARGV[3]) then
  return {-1, head}
end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('PERSIST', KEYS[2])
if KEYS[3] ~= KEYS[2] then
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
end
return {1, ARGV[2]}
