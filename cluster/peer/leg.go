package peer

import (
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	// maxTries and maxTry bound what a node tells of what did not serve a message: the count, and the octets of a text.
	maxTries = 16
	maxTry   = 512
	// maxLeg is the most octets of all fields of a way to a destination: texts have maxTry, and there are four fields
	// for each that did not serve and eleven beside them; and the two numbers of a report for each, and for the
	// session.
	maxLeg = (4*maxTries+11)*(maxTry+fieldHead) + 2*(maxTries+1)*(8+fieldHead)
)

// appendLeg appends what the owner tells of its way to the destination, behind all other fields of an answer. leg may
// be nil.
func appendLeg(f fields, leg *mail.Leg) fields {
	if leg == nil {
		return f
	}
	text := func(name byte, s string) { f = f.text(name, s[:min(len(s), maxTry)]) }
	for i := range leg.Tried[:min(len(leg.Tried), maxTries)] {
		t := &leg.Tried[i]
		text(fTryHost, t.Host)
		if t.Addr.IsValid() {
			text(fTryAddr, t.Addr.String())
		}
		text(fTryCause, t.Cause)
		f = f.number(fTryPolicy, int64(t.Report.Policy)).number(fTryResult, int64(t.Report.Result))
		f = f.number(fTryTook, int64(max(t.Took, 1)))
	}
	text(fSite, string(leg.Site))
	s := &leg.Session
	if s.Host == "" {
		return f
	}
	text(fSentLocal, leg.Reverse.Local)
	text(fSentDomain, leg.Reverse.Domain)
	text(fTakenHost, s.Host)
	if s.Addr.IsValid() {
		text(fTakenAddr, s.Addr.String())
	}
	if s.Source.IsValid() {
		text(fTakenSource, s.Source.String())
	}
	text(fTakenTLS, s.TLS)
	text(fTakenCipher, s.Cipher)
	text(fTakenExchange, s.KeyExchange)
	f = f.number(fTakenPolicy, int64(s.Report.Policy)).number(fTakenResult, int64(s.Report.Result))
	return f.flag(fTakenVerified, s.Verified).number(fTakenKind, int64(s.Kind))
}

// readLeg sets what an answer tells of the owner's way to the destination, in which tried says how many hosts were
// tried from here before. An answer of a node that tells nothing changes nothing.
func readLeg(f fields, leg *mail.Leg, tried int) {
	var (
		tries   []mail.Try
		try     mail.Try
		taken   mail.Taken
		reverse mail.Path
	)
	for len(f) > 0 {
		name, v, rest, err := f.next()
		if err != nil {
			return // which the reader of the answer has reported
		}
		f = rest
		switch name {
		case fSite:
			leg.Site = mail.Site(v)
		case fSentLocal:
			reverse.Local = string(v)
		case fSentDomain:
			reverse.Domain = string(v)
		case fTakenHost:
			taken.Host = string(v)
		case fTakenAddr:
			taken.Addr, _ = netip.ParseAddrPort(string(v))
		case fTakenSource:
			taken.Source, _ = netip.ParseAddr(string(v))
		case fTakenTLS:
			taken.TLS = string(v)
		case fTakenCipher:
			taken.Cipher = string(v)
		case fTakenExchange:
			taken.KeyExchange = string(v)
		case fTakenVerified:
			taken.Verified = true
		case fTakenKind:
			taken.Kind = min(mail.SessionKind(asEnum(v)), mail.SessionWarm)
		case fTakenPolicy:
			taken.Report.Policy = mail.TLSPolicy(asEnum(v))
		case fTakenResult:
			taken.Report.Result = mail.TLSResult(asEnum(v))
		case fTryPolicy:
			try.Report.Policy = mail.TLSPolicy(asEnum(v))
		case fTryResult:
			try.Report.Result = mail.TLSResult(asEnum(v))
		case fTryHost:
			try.Host = string(v)
		case fTryAddr:
			try.Addr, _ = netip.ParseAddrPort(string(v))
		case fTryCause:
			try.Cause = string(v)
		case fTryTook:
			try.Took = time.Duration(max(0, asNumber(v)))
			tries = append(tries, try)
			try = mail.Try{}
		}
	}
	if len(tries) > 0 {
		leg.Tried = append(slices.Clip(leg.Tried[:min(tried, len(leg.Tried))]), tries[:min(len(tries), maxTries)]...)
	}
	if taken.Host != "" {
		leg.Session, leg.Reverse = taken, reverse
	}
}
