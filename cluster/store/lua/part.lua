-- KEYS: the parts of rules that are being written. ARGV: the number of a part, the part, the milliseconds that it is kept
-- if no head names it.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
