package main

// scenarios are in the order in which they run.
var scenarios = []scenario{
	killOwner, cutAroundDot, killAll, rolling, drainLong, split, pairCut, oneWay,
	noRoute, sickMX, sickMail, deadAddress, deadSession, movedAddress, early250, stderrBlocked, stderrClosed, tornRules,
	redisKilled, redisFrozen, redisEmptied, redisReadOnly, redisFull, dnsDead, dnsSlow, dnsServfail, dnsLying,
	blackHole, rstInData, garbage, storm421, closes, noReply, greylisted, lossy, descriptors, fewDescriptors, reloads,
	certificates, hogs,
	redisSlow, redisSentinel, redisCluster,
	drip, full, postgrey, siteMoves,
	expired, sameName, gossipKey,
	memoryLimit, stateFull, clockStepped,
	cutOneNode, cutWithoutOnce,
	haproxy, haproxyReload, anycastPlain, anycastResilient, delayed, narrowed, holeOut, holeIn, holeProbed,
	killOwnerOnce,
}
