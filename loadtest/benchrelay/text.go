package main

// What stands in the documents between the figures.
const (
	textHead = `# The race beside the peers

%s, %s. ` + "`make peers`" + `: smtp-source -> X -> a sink that counts, on loopback; medians of %s,
interleaved. Made of [peers.json](peers.json). How each is configured, and what was tuned in its favour:
[peers](../../loadtest/benchrelay/peers/README.md). Queues are in memory (tmpfs), which makes those that
have one faster than a disk would.

`
	textCPU = `
## CPU

Milliseconds a message (seconds for 1000), of all processes of the relay and those that they started, also
ended ones; in parentheses the multiple of Millrace.

`
	textBars = `The bars: a tenth of the CPU of Postfix's queue and of Exim in every cell, an eighth of Haraka's at
4 KiB single and a tenth elsewhere. %d of %d are reached.`

	textPolicy = `## With policy

Milliseconds a message. Each message is signed (RSA, 2048 bits); SPF, DKIM and, by the signature alone, DMARC pass,
and the reverse-path is rewritten: a run in which the message at the sink does not say so is void. What Millrace
passes on while it comes, as it does 1 MiB, can say of SPF alone, so its metrics are asked for the rest. It also asks
its score, with Redis; Redis counts, the name server does not.

`
	textRate = `## Messages a second

Until the sink has the last one. The cores are shared with smtp-source and the sink.

`
	textLatency = `## Added latency

Milliseconds until the sender has its answer, for each message in its session, against no relay. Those with a
queue answer before they deliver.

`
	textMemory = `## Memory

MiB (PSS) of all processes of the relay behind the last message.

`
	textCalls = `## System calls

A message, of all kinds (` + "`strace -f -c`" + `, epoll and futex included), over %d messages.

`
	textBlock = `CPU for a message, in milliseconds, of the relay with all its processes, and as a multiple of
Millrace's: ` + "`make peers`" + `, %s, %s. All is on one
machine, queues are in memory, and each message was counted: [all cells](bench/results/peers.md),
[configurations](loadtest/benchrelay/peers/README.md).

`
	textBlockPolicy = `With SPF, DKIM, DMARC and SRS (Postfix with policyd-spf, opendkim, opendmarc and postsrsd;
Millrace also with its score and Redis):

`
	textBlockBars = `Of the bars, a tenth of the CPU of Postfix's queue, of Exim and of Haraka (an eighth at 4 KiB
single), %d of %d are reached.
`
)
