package peer

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

func wholeLeg() mail.Leg {
	return mail.Leg{
		Site: "far", Reverse: to("x"),
		Tried: []mail.Try{
			{Host: "mx1", Addr: netip.MustParseAddrPort("192.0.2.1:25"), Cause: "connect: refused", Took: time.Second},
			{Host: "mx2", Cause: "no address", Took: 1},
		},
		Session: mail.Taken{
			Host: "mx3", Addr: netip.MustParseAddrPort("[2001:db8::1]:25"), Source: netip.MustParseAddr("2001:db8::2"),
			TLS: "TLS 1.3", Cipher: "c", KeyExchange: "X25519", Verified: true, Kind: mail.SessionWarm,
		},
	}
}

// TestLeg: what the owner tells of its way arrives as it was, behind what was tried here before, and an answer that
// tells nothing changes nothing.
func TestLeg(t *testing.T) {
	sent, first := wholeLeg(), mail.Try{Host: "here"}
	got := mail.Leg{Node: "b", Tried: []mail.Try{first}}
	f := appendLeg(appendRefusal(nil, mail.Refuse(451, 4, 1, "no", "unreachable", nil)), &sent)
	for range 2 { // the owner repeats it in each answer
		readLeg(f, &got, 1)
		readLeg(appendRefusal(nil, mail.Refuse(451, 4, 1, "no", "unreachable", nil)), &got, 1)
	}
	want := sent
	want.Node, want.Tried = "b", append([]mail.Try{first}, sent.Tried...)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestLeg_Room: what is told of the way fits into a frame behind the outcomes of many recipients.
func TestLeg_Room(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	leg := wholeLeg()
	leg.Tried = nil
	for range 100 {
		leg.Tried = append(leg.Tried, mail.Try{Host: long, Cause: long})
	}
	leg.Site, leg.Session.Host, leg.Session.TLS, leg.Session.Cipher = mail.Site(long), long, long, long
	var all []mail.Outcome
	for i := range 1000 {
		all = append(all, mail.Outcome{Reply: mail.NewReply(250, 0, i%900, long)})
	}
	if n := len(appendLeg(appendOutcomes(nil, all), &leg)); n > maxFields {
		t.Errorf("%d octets, want %d at most", n, maxFields)
	}
}

// FuzzLeg reads arbitrary octets as what an owner tells of its way.
func FuzzLeg(f *testing.F) {
	leg := wholeLeg()
	f.Add([]byte(appendLeg(nil, &leg)))
	f.Add([]byte{fTryTook, 0, 8, 0xff, 0, 0, 0, 0, 0, 0, 0, fTakenKind, 0, 8, 0, 0, 0, 0, 0, 0, 0, 200})
	f.Fuzz(func(t *testing.T, b []byte) {
		leg := mail.Leg{Tried: []mail.Try{{Host: "here"}}}
		readLeg(b, &leg, 1)
		if len(leg.Tried) < 1 || len(leg.Tried) > 1+maxTries || leg.Tried[0].Host != "here" ||
			leg.Session.Kind.String() == "" {
			t.Fatalf("%+v", leg)
		}
	})
}
