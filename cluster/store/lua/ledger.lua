-- KEYS: the entries of a message. ARGV: the kind of event, the attempt, its lease and how long it is remembered in
-- milliseconds, whether its sender is proved, whether the message is in hand, the reply's code, subject and detail; then
-- of each recipient the number of its fields, and these. The answers are the present time and, for each recipient, the
-- entry that decides, "" for none. Transact in ingress/message/once is the same without Redis; a test compares them.
local looked, claimed, renewed, took, refused, lost, read, fades = '0', '1', '2', '3', '4', '5', '6', '7'
local intent, doubt, done = 1, 2, 3
local kind, holder, lease, keep = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local proved, whole = ARGV[5], ARGV[6] == '1'
local key, first = KEYS[1], 10

local fields, owner, recipients = {}, {}, 0
local at = first
while at <= #ARGV do
  local n = tonumber(ARGV[at])
  recipients = recipients + 1
  for i = 1, n do
    fields[#fields + 1] = ARGV[at + i]
    owner[#fields] = {recipient = recipients, place = i}
  end
  at = at + n + 1
end

local function parse(text)
  local phase, doubtful, shown, by, till, expires, reply =
    string.match(text or '', '^(%d) (%d) (%d) (%x+) (%d+) (%d+) (%d+ %d+ %d+)$')
  if not phase or tonumber(expires) <= ms then
    return nil
  end
  return {phase = tonumber(phase), doubtful = doubtful, proved = shown, holder = by, till = tonumber(till),
    expires = tonumber(expires), reply = reply}
end

local function text(e)
  return string.format('%d %s %s %s %.0f %.0f %s', e.phase, e.doubtful, e.proved, e.holder, e.till, e.expires, e.reply)
end

-- free reports whether the attempt may take an entry.
local function free(e)
  return not e or e.phase ~= done and (e.phase ~= intent or e.till <= ms or e.holder == holder)
end

local function weight(e)
  if e.phase == done then return 3 end
  if e.phase == intent and e.till > ms then return 2 end
  return 1
end

local entries, found = {}, {}
for from = 1, #fields, 500 do
  local values = redis.call('HMGET', key, unpack(fields, from, math.min(from + 499, #fields)))
  for i = 1, #values do
    local n = from + i - 1
    local e = parse(values[i])
    entries[n] = e
    local r, best = owner[n], found[owner[n].recipient]
    if e and not (proved == '1' and r.place > 1 and e.proved == '1') and (not best or weight(e) > weight(best)) then
      found[r.recipient] = e
    end
  end
end

local answers = {ms}
for r = 1, recipients do
  answers[r + 1] = found[r] and text(found[r]) or ''
end
if kind == looked then
  return answers
end

local function put(field, e)
  redis.call('HSET', key, field, text(e))
end

if kind == claimed then
  local has, open = 0, 0
  for r = 1, recipients do
    local e = found[r]
    if not free(e) and e.phase == intent then
      return answers
    elseif not free(e) then
      has = has + 1
    else
      open = open + 1
    end
  end
  if open == 0 or has > 0 and not whole then
    return answers
  end
  for n = 1, #fields do
    local e = found[owner[n].recipient]
    if free(e) and free(entries[n]) then
      local after = e and (e.doubtful == '1' or e.phase == doubt or e.phase == intent and e.holder ~= holder)
      put(fields[n], {phase = intent, doubtful = after and '1' or '0', proved = proved, holder = holder,
        till = ms + lease, expires = ms + keep, reply = '0 0 0'})
    end
  end
else
  for n = 1, #fields do
    local e = entries[n]
    local own = e and e.holder == holder
    if kind == took then
      put(fields[n], {phase = done, doubtful = e and e.doubtful or '0', proved = proved, holder = holder, till = 0,
        expires = ms + keep, reply = ARGV[7] .. ' ' .. ARGV[8] .. ' ' .. ARGV[9]})
    elseif own and e.phase == intent and kind == renewed then
      e.till, e.expires = ms + lease, ms + keep
      put(fields[n], e)
    elseif own and e.phase == intent and (kind == lost or kind == refused and e.doubtful == '1') then
      e.phase, e.till = doubt, 0
      if kind == lost then
        e.expires = ms + keep
      end
      put(fields[n], e)
    elseif own and (e.phase == intent and kind == refused or e.phase == done and kind == read) then
      redis.call('HDEL', key, fields[n])
    elseif own and e.phase == done and kind == fades and ms + keep < e.expires then
      e.expires = ms + keep
      put(fields[n], e)
    end
  end
end
if kind == claimed or kind == renewed or kind == took or kind == lost then
  if redis.call('PTTL', key) < keep then
    redis.call('PEXPIRE', key, string.format('%.0f', keep))
  end
end
return answers
