package migrate

import (
	"fmt"
	"strings"
	"time"
)

// An MX is a mail exchanger of a domain.
type MX struct {
	Host string `json:"host"`
	Pref uint16 `json:"preference"`
}

// A Move is a domain that moves to nodes of ours.
type Move struct {
	Domain string
	Zone   string // that it lies in, "" if that is not known
	Now    time.Time
	Old    []MX // as the domain has them
	TTL    time.Duration
	Host   string // the new one
	Config string // the file of its configuration
	Size   int64  // of the largest message that is taken
	Egress Egress
	Inside string // the next hop of the domain's mail, if a rule names one
}

// A Phase is a step of a move.
type Phase struct {
	Name  string    `json:"name"`
	Begin time.Time `json:"begin"` // not before
	Why   string    `json:"why"`
	Do    []string  `json:"do"`    // commands, and lines for the DNS
	Until []string  `json:"until"` // what has to be so before the next phase
}

const (
	// shortTTL is that of the records while they change: a change is then seen within minutes.
	shortTTL = 300 * time.Second
	// retried is how long senders go on to try a host that they learnt of before (RFC 5321 section 4.5.4.1: 4 to 5
	// days).
	retried = 5 * 24 * time.Hour
	// stable is how long the new way is watched before the old one goes, and kept how long after that its machine can
	// be started again.
	stable, kept = 7 * 24 * time.Hour, 14 * 24 * time.Hour
	// leastNotice is the least between the shorter TTL and the switch: some resolvers keep records longer than they
	// may.
	leastNotice = 24 * time.Hour
)

// Phases returns the steps of a move, with the first time of each. The old records count for as long as their TTL says,
// from the moment on in which a shorter one is published.
func (m Move) Phases() []Phase {
	begin := m.Now.UTC().Truncate(time.Minute)
	change := begin.Add(max(m.TTL, leastNotice)).Add(time.Minute)
	oldAway := change.Add(max(stable, retried+shortTTL))
	stop := oldAway.Add(retried)
	return []Phase{
		{
			Name: "Prepare", Begin: begin, Why: "nothing of the domain's mail changes yet",
			Do: append([]string{
				"millrace check -c " + m.Config,
				"millrace explain -c " + m.Config + " --ip 192.0.2.1 --from someone@example.com --to info@" + m.Domain,
				"millrace egress-list -c " + m.Config + " --format postfix   # to /etc/postfix/millrace.cidr inside",
			}, m.targetCommand()...),
			Until: []string{
				"check prints valid", "explain says where mail of each of your addresses goes, and 550 for one " +
					"that there is not",
				"the lines of main.cf below are in force inside: postfix check && postfix reload",
			},
		},
		{
			Name: "Lower the TTL", Begin: begin, Why: "so that the switch, and a way back, take minutes",
			Do: m.records(m.Old, shortTTL),
			Until: []string{"dig MX " + m.Domain + " shows 300 or less everywhere: from " + stamp(begin.Add(m.TTL)) +
				" on"},
		},
		{
			Name: "Try it", Begin: begin, Why: "mail by the new way, before the world takes it",
			Do: []string{
				"swaks --server " + m.Host + " --to info@" + m.Domain + "   # and one message for each kind of address",
				"millrace reconcile --maillog MAILLOG LOG   # the log inside, and that of the nodes",
			},
			Until: []string{"each message arrived, with the client's address in its Received field",
				"reconcile names none as missing"},
		},
		{
			Name: "Switch", Begin: change, Why: "the new MX comes first, and the old one stays behind it",
			Do: append(m.records(m.both(), shortTTL), "millrace migrate watch "+m.Domain+" --new "+m.Host),
			Until: []string{"watch says that all resolvers see the new MX: within minutes, and by " +
				stamp(change.Add(m.TTL)) +
				" where one kept the old TTL"},
		},
		{
			Name: "Both ways", Begin: change.Add(shortTTL), Why: "senders that learnt of the old MX before go on " +
				"to try it for " +
				"days",
			Do: []string{"millrace reconcile --maillog MAILLOG LOG   # once a day"},
			Until: []string{
				"no message is missing for a week", "reconcile shows no message any more that came by the old MX",
			},
		},
		{
			Name: "Take the old MX away", Begin: oldAway, Why: "what still comes to it is from senders that do not " +
				"look again",
			Do: m.records([]MX{{m.Host, 10}}, time.Hour), Until: []string{"dig MX " + m.Domain + " shows " + m.Host +
				" alone"},
		},
		{
			Name: "Stop the old gateway", Begin: stop, Why: "its queue is empty, and its machine stays as it is",
			Do: []string{"postqueue -p   # there: has to be empty", "systemctl stop postfix   # there"},
			Until: []string{"two weeks without a complaint; a way back is to start it again and the records of the " +
				"roll-back file"},
		},
		{
			Name: "Delete it", Begin: stop.Add(kept), Why: "there is no way back by it any more",
			Do: []string{
				"terraform plan -destroy -target=...   # or what made the machine; then apply",
				"millrace check mynetworks /etc/postfix/main.cf -c " + m.Config +
					"   # inside: the old gateway may not relay any more",
			},
			Until: []string{"no record and no network names its address any more"},
		},
	}
}

// targetCommand returns what tries the way to the next hop, from every node.
func (m Move) targetCommand() []string {
	if m.Inside == "" {
		return nil
	}
	return []string{"millrace check target " + m.Inside + " -c " + m.Config + "   # is the path open"}
}

// both returns the records with both ways: the new host first.
func (m Move) both() []MX {
	all := []MX{{m.Host, 10}}
	for _, old := range m.Old {
		all = append(all, MX{old.Host, old.Pref + 20})
	}
	return all
}

// records returns lines of a zone.
func (m Move) records(all []MX, ttl time.Duration) (lines []string) {
	for _, r := range all {
		lines = append(lines, fmt.Sprintf("%s. %d IN MX %d %s.", m.Domain, int(ttl.Seconds()), r.Pref, r.Host))
	}
	return lines
}

// stamp returns a time as a plan has it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// RollBack returns what brings the records back that the domain has now, as lines for nsupdate, of BIND and of Knot.
// The latter takes the root for the zone where none is named.
func (m Move) RollBack() string {
	var b strings.Builder
	fmt.Fprintf(&b, "; MX of %s as of %s. To go back: nsupdate -k KEY THIS-FILE, or put the lines into the zone.\n",
		m.Domain,
		stamp(m.Now))
	if m.Zone != "" {
		fmt.Fprintf(&b, "zone %s.\n", m.Zone)
	}
	fmt.Fprintf(&b, "update delete %s. MX\n", m.Domain)
	for _, r := range m.Old {
		fmt.Fprintf(&b, "update add %s. %d MX %d %s.\n", m.Domain, int(max(m.TTL, time.Second).Seconds()), r.Pref,
			r.Host)
	}
	b.WriteString("send\n")
	return b.String()
}

// MainCF returns the lines of main.cf of the host inside that takes the mail: nodes of ours connect, and do not relay.
func (m Move) MainCF() string {
	var b strings.Builder
	b.WriteString("# The host inside: mail comes from these nodes alone, and none of them relays.\n")
	for _, line := range []struct{ name, value string }{
		{"mynetworks", "127.0.0.0/8 [::1]/128"},
		{"smtpd_client_restrictions", "permit_mynetworks, check_client_access cidr:/etc/postfix/millrace.cidr, reject"},
		{"smtpd_relay_restrictions", "permit_mynetworks, reject_unauth_destination"},
		{"message_size_limit", fmt.Sprint(m.Size)},
		// What a relay passes on was judged there; its address says nothing of the sender.
		{"smtpd_client_connection_rate_limit", "0"},
		{"smtpd_client_connection_count_limit", "0"},
	} {
		fmt.Fprintf(&b, "%s = %s\n", line.name, line.value)
	}
	return b.String()
}

// Text returns the plan for people.
func (m Move) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s moves to %s. Its MX:\n", m.Domain, m.Host)
	if len(m.Old) == 0 {
		b.WriteString("  none: mail goes to its address, or nowhere\n")
	}
	for _, r := range m.Old {
		fmt.Fprintf(&b, "  %d %s\n", r.Pref, r.Host)
	}
	fmt.Fprintf(&b, "They count for %s after a change.\n", m.TTL)
	for i, p := range m.Phases() {
		fmt.Fprintf(&b, "\n%d. %s: from %s\n   %s.\n", i+1, p.Name, stamp(p.Begin), p.Why)
		for _, line := range p.Do {
			fmt.Fprintf(&b, "     %s\n", line)
		}
		for _, line := range p.Until {
			fmt.Fprintf(&b, "   until: %s\n", line)
		}
	}
	fmt.Fprintf(&b, "\nmain.cf inside:\n\n%s", m.MainCF())
	return b.String()
}

// A Sight is what a resolver sees of a domain.
type Sight struct {
	Resolver string   `json:"resolver"`
	Hosts    []string `json:"hosts"` // its MX hosts
	TTL      int      `json:"ttl"`   // seconds for which it goes on to see them
	State    string   `json:"state"` // new, both, old, none, or failed
	Cause    string   `json:"cause,omitempty"`
}

// The states of a Sight.
const (
	SeesNew    = "new"
	SeesBoth   = "both"
	SeesOld    = "old"
	SeesNone   = "none"
	SeesFailed = "failed"
)

// Judge sets the state: which of the hosts are new ones.
func (s *Sight) Judge(hosts []string) {
	found := 0
	for _, h := range s.Hosts {
		for _, n := range hosts {
			if strings.EqualFold(h, n) {
				found++
			}
		}
	}
	switch {
	case s.Cause != "":
		s.State = SeesFailed
	case len(s.Hosts) == 0:
		s.State = SeesNone
	case found == len(s.Hosts):
		s.State = SeesNew
	case found > 0:
		s.State = SeesBoth
	default:
		s.State = SeesOld
	}
}

// The bounds of the time between two looks.
const leastWait, mostWait = 10 * time.Second, 5 * time.Minute

// NextLook returns how long to wait for the next look: until the first resolver forgets the old records.
func NextLook(sights []Sight) time.Duration {
	wait := mostWait
	for _, s := range sights {
		if s.State != SeesNew && s.State != SeesBoth && s.Cause == "" {
			wait = min(wait, time.Duration(s.TTL+1)*time.Second)
		}
	}
	return max(wait, leastWait)
}

// AllSee reports whether mail of all who ask these resolvers goes to the new hosts, if only to one of them.
func AllSee(sights []Sight) bool {
	for _, s := range sights {
		if s.State != SeesNew && s.State != SeesBoth {
			return false
		}
	}
	return len(sights) > 0
}
