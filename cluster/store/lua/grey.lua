-- KEYS: triplets. ARGV: delay, window and keep of each, in milliseconds, and 1 if nothing is to be remembered. A triplet holds "+" once it has passed, before
-- that the time of its first attempt. The greylist method of local.go is the same without Redis. The answers are the milliseconds left to wait, -1 for one that passes.
local answers = {}
for i, key in ipairs(KEYS) do
  local delay, window, keep = tonumber(ARGV[4 * i - 3]), tonumber(ARGV[4 * i - 2]), ARGV[4 * i - 1]
  local peek = ARGV[4 * i] == '1'
  local stored = redis.call('GET', key)
  local wait = delay
  if stored == '+' then
    wait = 0
  elseif stored then
    local first = tonumber(stored) or ms
    if first > ms then -- of a clock that was ahead
      first = ms
      if not peek then
        redis.call('SET', key, string.format('%.0f', ms), 'PX', string.format('%.0f', window))
      end
    end
    wait = first + delay - ms
  end
  if wait <= 0 then
    if not peek then
      redis.call('SET', key, '+', 'PX', keep)
    end
    answers[i] = -1
  else
    if not stored and not peek then
      redis.call('SET', key, string.format('%.0f', ms), 'PX', string.format('%.0f', window))
    end
    answers[i] = wait
  end
end
return answers
