-- KEYS: the lists' answers, karma of the address and of its network, the domains for which the network is known good,
-- then the rates' counters.
-- ARGV: number of rates, number of lists, milliseconds of a lock, half-life, then four for each rate, then the lists.
local rates, lists, lock, halflife = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local good, known = {}, redis.call('HGETALL', KEYS[4])
for i = 1, #known, 2 do
  if (tonumber(known[i + 1]) or 0) > ms then
    good[#good + 1] = known[i]
  end
end
return {
  draw(4, 4, rates),
  listed(KEYS[1], 4 + 4 * rates, lists, lock),
  string.format('%.6f %.6f', standing(KEYS[2], halflife)),
  string.format('%.6f %.6f', standing(KEYS[3], halflife)),
  good,
}
