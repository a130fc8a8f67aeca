-- headed returns the head of the rules in force, "" without rules, and "?" with a reason for a value that is no head.
local function headed(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then
    return ''
  end
  if kind ~= 'string' then
    return '?' .. kind
  end
  local length = redis.call('STRLEN', key)
  if length == 0 or length > 512 then
    return '?' .. length
  end
  return redis.call('GET', key)
end
