package peer

import "time"

const (
	// beat is the interval in which a peer has to send something while an answer is due. maxMissedBeats is the number
	// of beats without anything after which it has failed. The answers may take minutes, because they are a
	// destination's.
	beat           = time.Second
	maxMissedBeats = 4
	// maxStalledBeats is the number of beats that a write may make no progress although the peer lives. The peer's
	// destination may be slow and has 120 s. The peer's own answer to that comes first.
	maxStalledBeats = 125
	// ticksPerBeat is how often in a beat the connections are checked for a wait that has become long.
	ticksPerBeat = 10

	// dialTimeout bounds the beginning of a connection, TLS included.
	dialTimeout = 3 * time.Second
	// maxDials is how many connections to one node are begun at a time, less than its guard lets wait.
	maxDials = 32
	// idleTimeout is how long an unused connection is kept, and maxIdle the number of them for each node.
	idleTimeout = time.Minute
	maxIdle     = 64
	// firstPause is how long a node is not used after a failed hop: long enough for gossip to notice that it died. It
	// doubles with each failed attempt to connect, up to longestPause.
	firstPause   = 3 * time.Second
	longestPause = 30 * time.Second
	// goodbyePause is how long no connection is opened to a node that said goodbye, or that refused in its hello.
	goodbyePause = time.Second

	// maxConnections is the number of connections that a Server serves at a time. maxRefusals is the number of further
	// connections that get the answer, each for a moment, that the server is full.
	maxConnections = 4096
	maxRefusals    = 32
	// commandBudget is how long a command may take if its sender states no time, and opening the message at most.
	commandBudget = time.Minute
	// commitBudget is how long a commit may take if its sender states no time: the 9 minutes of a client, less the
	// margin.
	commitBudget = 9*time.Minute - answerMargin

	// answerMargin is by how much a peer's deadline is earlier than ours, so that its answer still arrives in time
	// (docs/flow.md).
	answerMargin = 2 * time.Second
	// renewFresh is how long after an answer Renew asks nothing. It saves a round trip where a client sends DATA right
	// behind RCPT. If the owner loses the SMTP connection to another client within that time, the end of data is
	// answered for that.
	renewFresh = 40 * time.Millisecond
)

// A tuning holds what tests change. Its zero fields mean the constants.
type tuning struct {
	beat        time.Duration
	idleTimeout time.Duration
	maxIdle     int
	connections int
}

func (t tuning) withDefaults() tuning {
	if t.beat == 0 {
		t.beat = beat
	}
	if t.idleTimeout == 0 {
		t.idleTimeout = idleTimeout
	}
	if t.maxIdle == 0 {
		t.maxIdle = maxIdle
	}
	if t.connections == 0 {
		t.connections = maxConnections
	}
	return t
}
