package ingress

import (
	"time"

	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/ingress/wire"
)

// A receipt is what a session holds of the last message that was taken, until it is known whether the client has read
// that. Its Receipt is zero outside that time.
type receipt struct {
	message.Receipt
	conn     *wire.Client
	messages *message.Messages
}

// What is remembered of a message whose reply was perhaps read.
const (
	keptAcknowledged = time.Hour
	keptBehind       = 24 * time.Hour // behind a front end, which acknowledges for its clients
	// keptBrief is for a message that another one may look like: it was kept longer while its client was put off.
	keptBrief = 15 * time.Minute
)

// settle tells the ledger if the client has read the reply to the message that was taken last, or may have. last
// says that no more will be known of it.
func (r *receipt) settle(last bool) {
	taken := r.Receipt
	if taken.Attempt == nil {
		return
	}
	heard, brief := r.conn.Heard(), taken.Attempt.Brief
	if !last && (brief || heard != wire.HeardSurely) {
		return
	}
	r.Receipt = message.Receipt{}
	switch {
	case heard == wire.HeardSurely, brief && heard != wire.HeardUnknown:
		r.messages.Forget(taken, 0)
	case brief && taken.IsOfBefore():
		r.messages.Forget(taken, keptBrief)
	case brief:
	case heard == wire.HeardAcknowledged:
		r.messages.Forget(taken, keptAcknowledged)
	case heard == wire.HeardBehind:
		r.messages.Forget(taken, keptBehind)
	}
}

// forgetBrief forgets the message that was taken last, if the next one may look the same: a client that sends both on
// one connection means both, whether or not it has read the reply between them. It waits for the store.
func (r *receipt) forgetBrief() {
	if taken := r.Receipt; taken.Attempt != nil && taken.Attempt.Brief && r.conn.Answered() {
		r.Receipt = message.Receipt{}
		r.messages.Forget(taken, 0)
	}
}
