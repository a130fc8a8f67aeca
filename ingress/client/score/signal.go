package score

// A signal is one of those that can speak.
type signal uint8

// The signals, in the order of Explain.
const (
	sigAllow signal = iota
	sigBlock
	sigDNSBL
	sigDNSWL
	sigDomainList
	sigKarma
	sigNoPTR
	sigFCrDNS
	sigGenericPTR
	sigEarlyTalker
	sigHeloSyntax
	sigHeloSelf
	sigHeloLiteral
	sigHeloUnresolved
	sigHeloMismatch
	sigSenderNullMX
	sigSenderDomain
	sigSPFFail
	sigSPFSoftFail
	sigSPFNone
	sigSPFPermError
	signals = iota
)

// A source is where signals come from: one question, whose answer lets some of them speak. Sources are bits, so that
// those under way are one number. A new one comes last and is lastSource; it needs a name in unheard if it can be late,
// its step in stepOf, and room below the bits of the locations (explain.go).
type source uint16

const (
	fromEntries source = 1 << iota
	fromLists
	fromStore
	fromPTR
	fromTalk
	fromHelo
	fromHeloAddrs
	fromHeloLists
	fromMX
	fromSPF
	fromSenderLists

	lastSource = fromSenderLists
)

// unheard returns the name of a source that gave no answer.
func (s source) unheard() string {
	switch s {
	case fromLists:
		return "dnsbl"
	case fromStore:
		return "store"
	case fromPTR:
		return "fcrdns"
	case fromHeloAddrs:
		return "helo"
	case fromHeloLists, fromSenderLists:
		return "domain-list"
	case fromMX:
		return "sender-domain"
	case fromSPF:
		return "spf"
	}
	return "other"
}

// A signalInfo is what is fixed about a signal before any client.
type signalInfo struct {
	name   string
	from   source
	weight float64
	list   bool // its weight is the list's, and is not configured here
}

// catalogue has all signals. The weights go with the thresholds 6 and 10. Each soft signal is below 6, so that none
// defers a client alone; lists and block entries may. An honest host with a careless administrator may have no name at
// all, a bare name in EHLO and a sender that cannot be answered; only with all of them it comes near 10. Signals that
// are often wrong together (those of the name in EHLO) do not add up: one of them speaks.
var catalogue = [signals]signalInfo{
	sigAllow:          {name: "allow", from: fromEntries, weight: -100},
	sigBlock:          {name: "block", from: fromEntries, weight: 100},
	sigDNSBL:          {name: "dnsbl", from: fromLists, list: true},
	sigDNSWL:          {name: "dnswl", from: fromLists, list: true},
	sigDomainList:     {name: "domain-list", from: fromHeloLists | fromSenderLists, list: true},
	sigKarma:          {name: "karma", from: fromStore, weight: 0.9}, // of karma.Weight, which is at most 6
	sigNoPTR:          {name: "no-ptr", from: fromPTR, weight: 2},
	sigFCrDNS:         {name: "fcrdns", from: fromPTR, weight: 1.5},
	sigGenericPTR:     {name: "generic-ptr", from: fromPTR, weight: 1.5},
	sigEarlyTalker:    {name: "early-talker", from: fromTalk, weight: 4},
	sigHeloSyntax:     {name: "helo-syntax", from: fromHelo, weight: 3},
	sigHeloSelf:       {name: "helo-self", from: fromHelo, weight: 5},
	sigHeloLiteral:    {name: "helo-literal", from: fromHelo, weight: 3},
	sigHeloUnresolved: {name: "helo-unresolved", from: fromHeloAddrs, weight: 2},
	sigHeloMismatch:   {name: "helo-mismatch", from: fromHeloAddrs, weight: 0.5},
	sigSenderNullMX:   {name: "sender-null-mx", from: fromMX, weight: 5},
	sigSenderDomain:   {name: "sender-domain", from: fromMX, weight: 4},
	sigSPFFail:        {name: "spf-fail", from: fromSPF, weight: 3},
	sigSPFSoftFail:    {name: "spf-softfail", from: fromSPF, weight: 1},
	sigSPFNone:        {name: "spf-none", from: fromSPF, weight: 0.5},
	sigSPFPermError:   {name: "spf-permerror", from: fromSPF, weight: 0.5},
}

// DefaultWeights returns the weight of each signal that Config.Weights can change, by name. That of "karma" is a
// factor: what karma.Weight returns, from -3 to 6, is multiplied by it. DNS lists have weights of their own.
func DefaultWeights() map[string]float64 {
	weights := make(map[string]float64, signals)
	for sig := range catalogue {
		if adjustable(signal(sig)) {
			weights[catalogue[sig].name] = catalogue[sig].weight
		}
	}
	return weights
}

// adjustable reports whether the weight of a signal can be configured. That of allow cannot: an allowed client is
// accepted with any weight.
func adjustable(sig signal) bool { return !catalogue[sig].list && sig != sigAllow }
