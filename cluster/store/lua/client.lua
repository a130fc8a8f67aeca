-- KEYS: the lists' answers, karma of the address and of the senders of its network, the domains for which the network is
-- known good, then the rates' counters.
-- ARGV: number of rates, number of lists, milliseconds of a lock, half-life, then four for each rate, then the lists.
local rates, lists, lock, halflife = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local good, known = {}, redis.call('HGETALL', KEYS[4])
for i = 1, #known, 2 do
  if (tonumber(known[i + 1]) or 0) > ms then
    good[#good + 1] = known[i]
  end
end
local senders, voted = {}, redis.call('HGETALL', KEYS[3])
for i = 1, #voted, 2 do
  senders[i] = voted[i]
  senders[i + 1] = string.format('%.6f %.6f', standing(voted[i + 1], halflife))
end
return {
  draw(4, 4, rates),
  listed(KEYS[1], 4 + 4 * rates, lists, lock),
  string.format('%.6f %.6f', standing(redis.call('GET', KEYS[2]), halflife)),
  senders,
  good,
}
