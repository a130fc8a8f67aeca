package wire

import (
	"sync/atomic"

	"github.com/millrace/millrace/router/mail"
)

// A phase says where the transaction of a connection stands.
type phase uint32

const (
	noTransaction  phase = iota // no transaction
	inMail                      // MAIL was accepted; up to the end of a message that comes by DATA
	inChunks                    // a message comes by BDAT, and commands may stand between its chunks
	refusingChunks              // a message by BDAT was refused before its last chunk, and so are its further chunks
)

// open reports whether a transaction is open in the phase: the Session knows it, and it would be lost with the process.
func (p phase) open() bool { return p == inMail || p == inChunks }

// refusals says what happened to the refused recipients of a transaction.
type refusals uint8

const (
	noRefusals     refusals = iota
	refusedForGood          // all that were refused
	refusedForNow           // one at least
	putOffThere             // one at least by its destination
)

// A transaction is the state of the mail transaction of a connection.
//
// Invariant: outside of the phases inMail and inChunks rcpts and refused are zero; failed is not nil if and only
// if the phase is refusingChunks. serve's goroutine writes all of it, and other goroutines may call phase.
type transaction struct {
	current atomic.Uint32 // a phase
	rcpts   int32         // accepted
	refused refusals
	utf8    bool        // MAIL had SMTPUTF8
	failed  *mail.Reply // the reply to each further BDAT while refusingChunks
}

func (t *transaction) phase() phase { return phase(t.current.Load()) }

// enter begins phase p. The store costs more than the load, so a phase that stays is not stored.
func (t *transaction) enter(p phase) {
	if t.phase() != p {
		t.current.Store(uint32(p))
	}
}

// open begins a transaction after an accepted MAIL. The transaction must be new or ended.
func (t *transaction) open(utf8 bool) {
	t.utf8 = utf8
	t.enter(inMail)
}

// end ends the transaction, whether one is open or not.
func (t *transaction) end() {
	t.enter(noTransaction)
	t.rcpts, t.refused, t.failed = 0, noRefusals, nil
}

// refuseChunks makes r the reply to each further BDAT. The transaction must be ended.
func (t *transaction) refuseChunks(r mail.Reply) {
	t.failed = &r
	t.enter(refusingChunks)
}

// refuse notes that a recipient was refused.
func (t *transaction) refuse(how refusals) { t.refused = max(t.refused, how) }

// notReady returns the reply to a DATA or BDAT that comes before an accepted recipient, else nil. greeted reports that
// EHLO or HELO came. Where a recipient was refused for now, so is the DATA: a client that looks at this reply alone
// must not give up the message.
func (t *transaction) notReady(greeted bool) *mail.Reply {
	switch {
	case !greeted:
		return &helloFirst
	case !t.phase().open():
		return &mailFirst
	case t.rcpts > 0:
		return nil
	case t.refused >= refusedForNow:
		return &noRecipientNow
	case t.refused == refusedForGood:
		return &noRecipients
	}
	return &rcptFirst
}
