-- KEYS: the counters. ARGV: four for each, as draw has them.
return draw(0, 0, #KEYS)
