-- The answers of DNS lists on one address are a hash: the field "a:" and the list holds when the answer ends, in
-- milliseconds, and the codes; "l:" and the list holds when the lock of the one who looks it up ends.

-- prolong keeps key for at least time milliseconds.
local function prolong(key, time)
  if redis.call('PTTL', key) < time then
    redis.call('PEXPIRE', key, string.format('%.0f', time))
  end
end

-- listed answers for the n lists after ARGV[a] with "known", the milliseconds left and the codes; "yours"; "pending"; or
-- "unknown". It takes locks for lock milliseconds unless that is 0.
local function listed(key, a, n, lock)
  local answers = {}
  for i = 1, n do
    local list = ARGV[a + i]
    local ends, codes = string.match(redis.call('HGET', key, 'a:' .. list) or '', '^(%d+)(.*)$')
    if ends and tonumber(ends) > ms then
      answers[i] = string.format('known %.0f', ends - ms) .. codes
    elseif lock == 0 then
      answers[i] = 'unknown'
    elseif (tonumber(redis.call('HGET', key, 'l:' .. list) or '') or 0) > ms then
      answers[i] = 'pending'
    else
      redis.call('HSET', key, 'l:' .. list, string.format('%.0f', ms + lock))
      prolong(key, lock)
      answers[i] = 'yours'
    end
  end
  return answers
end
