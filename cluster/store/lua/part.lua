-- KEYS: the parts of rules that are being written. ARGV: the number of a part, the part, the milliseconds that what nobody
-- puts in force is kept.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
