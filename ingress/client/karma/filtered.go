package karma

import (
	"context"
	"hash/maphash"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/network"
)

// filterVoter stands for the content filters where a destination domain votes. It is no domain.
const filterVoter = "(filters)"

const (
	// filterMailboxes is to how many mailboxes filters must have refused mail of a client before that is a vote. Not
	// more than maxDomains.
	filterMailboxes = 3
	// maxFiltered bounds each of the tables of what filters said.
	maxFiltered = 4096
)

// filtered is what content filters said.
type filtered struct {
	domains *table[string, volume]           // what they took, by the recipient's domain
	clients *table[netip.Addr, filteredPart] // what they said of a client's mail to believed domains
}

// A filteredPart is what filters said of the mail of one client.
type filteredPart struct {
	share
	mailboxes domainSet // to which they refused mail of late
}

func newFiltered() filtered {
	return filtered{
		domains: newTable[string, volume](maxFiltered / 2),
		clients: newTable[netip.Addr, filteredPart](maxFiltered / 2),
	}
}

// learnFiltered learns from what content filters said of a message. It votes against the client at most.
func (k *Recorder) learnFiltered(ctx context.Context, o *Outcome, lesson Lesson, now time.Time) {
	if !k.hasVolume(k.filtered.domains, o.Domain, network.Of(o.Client), lesson, now) {
		k.count.unbelieved.Add(1)
		return
	}
	if o.Allowed || o.KnownGood {
		k.count.exempted.Add(1)
		return
	}
	p := k.filtered.clients.get(o.Client)
	p.fade(now)
	if p.bad < 0.5 {
		p.mailboxes = domainSet{}
	}
	p.add(lesson, now)
	if lesson != Accepted {
		p.mailboxes.add(maphash.String(k.seed, o.Mailbox+"@"+o.Domain))
	}
	k.filtered.clients.put(o.Client, p)
	if lesson == Accepted {
		return
	}
	if p.mailboxes.n < filterMailboxes || p.badPart() < spamShare {
		k.count.tolerated.Add(1)
		return
	}
	weight := weightPolicy
	if lesson == Spam {
		weight = weightSpam
	}
	o.Domain, o.Sender = filterVoter, strings.Clone(o.Sender)
	k.vote(ctx, o, weight, now)
}
