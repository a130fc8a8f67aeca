-- draw takes n rates. Their counters are KEYS[k+1] to KEYS[k+n]; each has four arguments after ARGV[a]: its unit, the
-- burst and the cost in microseconds, and how: 1 to look only, 2 to draw though it is used up, because what it counts has
-- happened, and 3 to look at such a one; else 0. A counter holds the theoretical arrival time (TAT) of the
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
      local stored, how = tonumber(redis.call('GET', KEYS[k + last]) or '') or 0, ARGV[a + 4 * last]
      local most = now + burst
      if how == '2' or how == '3' then most = most + math.max(burst, 64 * cost) end
      tat[last] = math.max(now, math.min(stored, most)) + cost
      if how == '2' then
        tat[last], wait[last] = math.min(tat[last], most), 0
      else
        wait[last] = math.max(0, tat[last] - burst - now)
      end
      fits = fits and wait[last] == 0
      last = last + 1
    end
    for i = first, last - 1 do
      local how = ARGV[a + 4 * i]
      if fits and (how == '0' or how == '2') then
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
