-- The one clock of the cluster, in microseconds and in milliseconds. A double holds both without loss.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local ms = math.floor(now / 1000)
