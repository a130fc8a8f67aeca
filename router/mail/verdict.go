package mail

// A VerdictAction is what a Verdict asks for.
type VerdictAction uint8

// The actions of a Verdict.
const (
	VerdictAccept VerdictAction = iota
	VerdictDefer                // 450 4.7.1: the client may come back
	VerdictReject               // 554 5.7.1
)

// String gives the action's name.
func (a VerdictAction) String() string {
	switch a {
	case VerdictDefer:
		return "defer"
	case VerdictReject:
		return "reject"
	}
	return "accept"
}

// A Verdict is what is thought of a client before its first recipient.
type Verdict struct {
	Action  VerdictAction
	Score   float64  // the sum of the weights; higher is worse
	Reasons []Reason // the signals that spoke, the heaviest first
}

// A Reason is a signal that spoke for or against a client.
type Reason struct {
	Name   string  // a short fixed word, such as "dnsbl", "fcrdns" or "early-talker"; to count and to search by
	Weight float64 // what it adds to the score; below zero it speaks for the client
	Text   string  // what was seen, fit for a stranger and for a reply: printable ASCII without CR or LF
}
