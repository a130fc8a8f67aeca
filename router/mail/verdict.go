package mail

// A VerdictAction says how a client with a Verdict is to be answered.
type VerdictAction uint8

// The actions of a Verdict.
const (
	VerdictAccept VerdictAction = iota
	VerdictDefer                // 450 4.7.1, so that the client may try again
	VerdictReject               // 554 5.7.1
)

// String returns the action's name in lower case.
func (a VerdictAction) String() string {
	switch a {
	case VerdictDefer:
		return "defer"
	case VerdictReject:
		return "reject"
	}
	return "accept"
}

// A Verdict is the score's verdict on a client before its first recipient.
type Verdict struct {
	Action  VerdictAction
	Score   float64  // the sum of the weights; higher is worse
	Reasons []Reason // the signals that were observed, the heaviest first
	Entries string   // the entries of the allow and the block list that spoke, for the log; "" if none did
}

// A Reason is a signal for or against a client.
type Reason struct {
	Name   string  // a short fixed word to count and to search by, such as "dnsbl", "fcrdns" or "early-talker"
	Weight float64 // added to the score; below zero it is in the client's favour
	Text   string  // what was observed, fit for a reply to the client: printable ASCII without CR or LF
}
