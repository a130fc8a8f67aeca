-- KEYS: the lists' answers. ARGV: milliseconds of a lock, the lists.
return listed(KEYS[1], 1, #ARGV - 1, tonumber(ARGV[1]))
