-- draw takes n rates. Their counters are KEYS[k+1] to KEYS[k+n]; each has four arguments after ARGV[a]: its unit, the
-- burst and the cost in microseconds, and 1 to look only. A counter holds the theoretical arrival time (TAT) of the
-- generic cell rate algorithm and is gone once that lies in the past. None is further ahead than a draw can have moved
-- it, unless the clock that wrote it was: this one before it was set, or that of another Redis. A cost below zero gives back what was drawn. The
-- answers are the microseconds until each would be allowed, 0 for now.
local function draw(k, a, n)
  local wait, tat = {}, {}
  local first = 1
  while first <= n do
    local unit = ARGV[a + 4 * first - 3]
    local fits, last = true, first
    while last <= n and ARGV[a + 4 * last - 3] == unit do
      local burst, cost = tonumber(ARGV[a + 4 * last - 2]), tonumber(ARGV[a + 4 * last - 1])
      local stored = tonumber(redis.call('GET', KEYS[k + last]) or '') or 0
      tat[last] = math.max(now, math.min(stored, now + burst)) + cost
      wait[last] = math.max(0, tat[last] - burst - now)
      fits = fits and wait[last] == 0
      last = last + 1
    end
    for i = first, last - 1 do
      if fits and ARGV[a + 4 * i] ~= '1' then
        if tat[i] > now then
          redis.call('SET', KEYS[k + i], string.format('%.0f', tat[i]), 'PX', string.format('%.0f', math.ceil((tat[i] - now) / 1000)))
        else
          redis.call('DEL', KEYS[k + i])
        end
      end
    end
    first = last
  end
  return wait
end
