-- standing returns score and votes as they are worth now: half of them is gone in each half-life, in milliseconds.
local function standing(text, halflife)
  local score, votes, at = string.match(text or '', '^(%S+) (%S+) (%d+)$')
  score, votes = tonumber(score or ''), tonumber(votes or '')
  if not score or not votes then
    return 0, 0
  end
  local fade = 0.5 ^ (math.max(0, ms - at) / halflife)
  return score * fade, votes * fade
end
