-- KEYS: the vote of a destination in this hour, the karma of the address, that of its network. ARGV: weight, half-life,
-- the most a score may be, the hour and the time that karma is kept, in milliseconds. A destination that votes again in
-- the hour can only make its vote worse: else one good message would cover for all the spam behind it.
local weight, halflife, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local before = tonumber(redis.call('GET', KEYS[1]) or '')
if before and weight >= before then
  return 0
end
local left = before and redis.call('PTTL', KEYS[1]) or 0
redis.call('SET', KEYS[1], ARGV[1], 'PX', left > 0 and string.format('%.0f', left) or ARGV[4])
for i = 2, 3 do
  local score, votes = standing(KEYS[i], halflife)
  score = math.max(-most, math.min(most, score + weight - (before or 0)))
  votes = votes + (before and 0 or 1)
  redis.call('SET', KEYS[i], string.format('%.6f %.6f %.0f', score, votes, ms), 'PX', ARGV[5])
end
return 1
