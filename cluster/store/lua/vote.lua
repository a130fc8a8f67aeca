-- KEYS: the vote of a destination in this hour, the karma of the address; its vote in this hour for the sender, the karma
-- of the senders of the network. ARGV: weight, half-life, the most a score may be, the hour and the time that karma is
-- kept, in milliseconds, the sender, the most senders that are kept. A destination that votes again in the hour can only
-- make its vote worse: else one good message would cover for all the spam behind it.
local weight, halflife, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local sender, room = ARGV[6], tonumber(ARGV[7])

-- cast stores a vote and returns what it changes of score and votes, nothing if it does not count.
local function cast(key)
  local before = tonumber(redis.call('GET', key) or '')
  if before and weight >= before then
    return
  end
  local left = before and redis.call('PTTL', key) or 0
  redis.call('SET', key, ARGV[1], 'PX', left > 0 and string.format('%.0f', left) or ARGV[4])
  return weight - (before or 0), before and 0 or 1
end

local function count(text, change, vote)
  local score, votes = standing(text, halflife)
  score = math.max(-most, math.min(most, score + change))
  return string.format('%.6f %.6f %.0f', score, votes + vote, ms)
end

local counted = 0
local change, vote = cast(KEYS[1])
if change then
  redis.call('SET', KEYS[2], count(redis.call('GET', KEYS[2]), change, vote), 'PX', ARGV[5])
  counted = 1
end
change, vote = cast(KEYS[3])
if not change then
  return counted
end
local held = redis.call('HGET', KEYS[4], sender)
if not held then -- the sender with the fewest votes makes room
  local all, first, fewest = redis.call('HGETALL', KEYS[4]), nil, nil
  for i = 1, #all, 2 do
    local _, votes = standing(all[i + 1], halflife)
    if not fewest or votes < fewest then
      first, fewest = all[i], votes
    end
  end
  if #all / 2 >= room then
    redis.call('HDEL', KEYS[4], first)
  end
end
redis.call('HSET', KEYS[4], sender, count(held, change, vote))
redis.call('PEXPIRE', KEYS[4], ARGV[5])
return 1
