package peer

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/router/mail"
)

func genText(limit int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return string(rapid.SliceOfN(rapid.Byte(), 0, limit).Draw(t, "text"))
	})
}

func genPath() *rapid.Generator[mail.Path] {
	return rapid.Custom(func(t *rapid.T) mail.Path {
		return mail.NewPath(rapid.StringMatching(`[ -~]{1,40}`).Draw(t, "local"),
			rapid.StringMatching(`[a-z]{1,9}\.example`).Draw(t, "domain"))
	})
}

func genReply() *rapid.Generator[mail.Reply] {
	return rapid.Custom(func(t *rapid.T) mail.Reply {
		return mail.Reply{
			Code: 100*rapid.SampledFrom([]int{2, 4, 5}).Draw(t, "class") + rapid.IntRange(0, 99).Draw(t, "code"),
			Enhanced: mail.EnhancedCode{
				Subject: rapid.Uint16().Draw(t, "subject"), Detail: rapid.Uint16().Draw(t, "detail"),
			},
			Text: genText(300).Draw(t, "text"),
			ID:   mail.TraceID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")),
		}
	})
}

// Every field of a Delivery crosses the hop but three: the owner determines the Site, Rewrite is settled before, and
// Leg comes back with the answers. The test fails for a field that is added to the Delivery until it is encoded.
func TestEncode_Opening(t *testing.T) {
	for typ, want := range map[reflect.Type]int{
		reflect.TypeFor[mail.Delivery]():  18,
		reflect.TypeFor[mail.NextHop]():   5, // one with a Proxy is for its own node
		reflect.TypeFor[mail.Origin]():    5,
		reflect.TypeFor[mail.Params]():    5, // its Parent stays here
		reflect.TypeFor[mail.TLSDemand](): 2, reflect.TypeFor[mail.TLSReport](): 2,
		reflect.TypeFor[mail.Refusal](): 6, reflect.TypeFor[mail.Outcome](): 11,
		reflect.TypeFor[mail.Reply]():  5, // Policy is set where the reply is sent
		reflect.TypeFor[mail.Octets](): 3,
	} {
		if typ.NumField() != want {
			t.Errorf("%v has %d fields, and this test knows %d", typ, typ.NumField(), want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		o := opening{
			d: mail.Delivery{
				NextHop: mail.NextHop{
					Transport: mail.Transport(rapid.IntRange(0, int(mail.LMTP)).Draw(t, "transport")),
					Host:      "h" + genText(50).Draw(t, "host"),
					Port:      rapid.Uint16().Draw(t, "port"), User: genText(50).Draw(t, "user"),
				},
				Params: mail.Params{
					Size: rapid.Int64Range(0, 1<<40).Draw(t, "size"),
					Body: mail.BodyType(rapid.IntRange(0, 2).Draw(t, "body")), SMTPUTF8: rapid.Bool().Draw(t, "utf8"),
					RequireTLS: rapid.Bool().Draw(t, "require tls"),
				},
				TLS:   mail.TLSDemand{Waived: rapid.Bool().Draw(t, "waived"), Least: rapid.Uint8().Draw(t, "least")},
				Extra: rapid.IntRange(0, 1<<20).Draw(t, "extra"), RecipientDomain: genText(50).Draw(t, "domain"),
				Favoured: rapid.Bool().Draw(t, "favoured"), Chosen: rapid.Bool().Draw(t, "chosen"),
				Trace:    mail.TraceID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "trace")),
				Seal:     mail.Seal(rapid.IntRange(0, 2).Draw(t, "seal")),
				EightBit: mail.EightBit(rapid.IntRange(0, 1).Draw(t, "eightbit")),
			},
			forward:     genPath().Draw(t, "forward"),
			traceparent: rapid.StringMatching(`[0-9a-f-]{0,55}`).Draw(t, "traceparent"),
			budget:      time.Duration(rapid.IntRange(0, 3600_000).Draw(t, "budget")) * time.Millisecond,
		}
		if rapid.Bool().Draw(t, "not null") {
			o.d.Reverse = genPath().Draw(t, "reverse")
			o.d.Own = genPath().Draw(t, "own")
		}
		if rapid.Bool().Draw(t, "client") {
			o.d.Client = netip.PrefixFrom(netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t,
				"addr"))), rapid.IntRange(0, 128).Draw(t, "bits"))
			o.d.Addr = o.d.Client.Addr()
		}
		if rapid.Bool().Draw(t, "origin") {
			o.d.Origin = &mail.Origin{
				By: mail.Client(rapid.IntRange(1, 2).Draw(t, "by")), Name: genText(50).Draw(t, "name"),
				Helo: genText(50).Draw(t, "helo"), ESMTP: rapid.Bool().Draw(t, "esmtp"),
			}
			if o.d.Addr.IsValid() && rapid.Bool().Draw(t, "known") {
				o.d.Origin.Addr = netip.AddrPortFrom(o.d.Addr, rapid.Uint16().Draw(t, "client port"))
			}
		}
		got, err := parseOpening(o.append(nil))
		if err != nil || !reflect.DeepEqual(got, o) {
			t.Fatalf("got  %+v, %v\nwant %+v", got, err, o)
		}
		forward, budget, err := parseRecipient(appendRecipient(nil, o.forward, o.budget))
		if err != nil || forward != o.forward || budget != o.budget {
			t.Fatalf("got %v %v %v", forward, budget, err)
		}
	})
}

// Refusals arrive as they were sent.
func TestEncode_Refusal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &mail.Refusal{Reply: genReply().Filter(func(r mail.Reply) bool {
			return r.Class() != 2
		}).Draw(t, "reply"), Reason: genText(40).Draw(t, "reason"), Host: genText(40).Draw(t,
			"host"), AboutUs: rapid.Bool().Draw(t, "about us"), Unreached: rapid.Bool().Draw(t, "unreached")}
		if rapid.Bool().Draw(t, "caused") {
			r.Cause = errors.New("x" + genText(40).Draw(t, "cause"))
		}
		a, err := parseAnswer(refused, appendRefusal(nil, r))
		if err != nil {
			t.Fatal(err)
		}
		if got := a.refusal(); got.Error() != r.Error() || got.Reply != r.Reply || got.Reason != r.Reason ||
			got.AboutUs != r.AboutUs || got.Host != r.Host || got.Unreached != r.Unreached {
			t.Fatalf("got  %+v\nwant %+v", got, r)
		}
	})
}

// A node of before sends no mark, and skips that of a later one: the rest of the refusal is the same.
func TestEncode_UnreachedOfBefore(t *testing.T) {
	r := mail.Refuse(451, 4, 1, "Destination cannot be reached", "unreachable", errFrame)
	before := appendRefusal(nil, r)
	a, err := parseAnswer(refused, before)
	if err != nil || a.refusal().Unreached {
		t.Errorf("%+v, %v", a, err)
	}
	r.Unreached = true
	now := appendRefusal(nil, r)
	mark := string(fields(nil).flag(fUnreached, true))
	if strings.Count(string(now), mark) != 1 || strings.Replace(string(now), mark, "", 1) != string(before) {
		t.Errorf("got  %q\nwant %q and a mark", now, before)
	}
	if known := []byte{fNotTaken, fAboutUs, fInDoubt}; bytes.IndexByte(known, fUnreached) >= 0 {
		t.Error("the number has another meaning to a node of before")
	}
	marked := append(fields(mark), appendOutcomes(nil, []mail.Outcome{{Reply: r.Reply, Cause: r}})...)
	out, err := parseOutcomes(marked, 1, "b")
	var cause *mail.Refusal
	if err != nil || errors.As(out[0].Cause, &cause) {
		t.Errorf("an outcome, behind an end of data: %+v, %v", out, err)
	}
}

func genOutcome() *rapid.Generator[mail.Outcome] {
	return rapid.Custom(func(t *rapid.T) mail.Outcome {
		o := mail.Outcome{
			Reply: genReply().Draw(t, "reply"), Host: genText(40).Draw(t, "host"), TLS: genText(9).Draw(t, "tls"),
			Reused:  rapid.Bool().Draw(t, "reused"),
			InDoubt: rapid.Bool().Draw(t, "in doubt"), AboutUs: rapid.Bool().Draw(t, "about us"),
			Wait:  time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "wait")),
			Again: rapid.Bool().Draw(t, "again"), Entry: mail.TraceID{rapid.Byte().Draw(t, "entry")},
		}
		if rapid.Bool().Draw(t, "caused") {
			o.Cause = errors.New("x" + genText(40).Draw(t, "cause"))
		}
		return o
	})
}

// Outcomes arrive as they were sent.
func TestEncode_Outcomes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []mail.Outcome
		for _, o := range rapid.SliceOfN(genOutcome(), 1, 8).Draw(t, "outcomes") {
			for range rapid.IntRange(1, 3).Draw(t, "times") {
				all = append(all, o)
			}
		}
		got, err := parseOutcomes(appendOutcomes(nil, all), len(all), "b")
		if err != nil {
			t.Fatal(err)
		}
		for i := range all {
			if got[i].Via != "b" {
				t.Fatalf("%d: via %q", i, got[i].Via)
			}
			if got[i].Via = ""; !sameOutcome(&got[i], &all[i]) {
				t.Fatalf("%d: got  %+v\nwant %+v", i, got[i], all[i])
			}
		}
		if _, err := parseOutcomes(appendOutcomes(nil, all), len(all)+1, "b"); err == nil {
			t.Fatal("one outcome too few is taken")
		}
	})
}

// The outcomes of many recipients fit into a frame.
func TestEncode_ManyOutcomes(t *testing.T) {
	for _, different := range []bool{false, true} {
		all := make([]mail.Outcome, 1000)
		for i := range all {
			all[i] = mail.Outcome{
				Reply: mail.NewReply(550, 1, 1, strings.Repeat("x", 20000)),
				Cause: errors.New(strings.Repeat("y", 20000)),
			}
			if different {
				all[i].Wait = time.Duration(i + 1)
			}
		}
		f := appendOutcomes(fields{fAnswers, 0, 1, byte(commit)}, all)
		got, err := parseOutcomes(f, len(all), "b")
		if err != nil || len(f) > maxFields {
			t.Fatalf("%v: %d octets, %v", different, len(f), err)
		}
		for i := range got {
			if got[i].Reply.Code != 550 || got[i].Wait != all[i].Wait {
				t.Fatalf("%v: %d: %+v", different, i, got[i])
			}
		}
	}
}

// sent returns the octets of a piece on the wire.
func sent(tb testing.TB, p *piece) []byte {
	tb.Helper()
	sink := &sinkConn{}
	if err := newLink(sink, beat, new(frameBuffers), nil).sendPiece(commit, p); err != nil {
		tb.Fatal(err)
	}
	return sink.Bytes()
}

// Pieces arrive as they were sent.
func TestPiece(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{
			0, 1, 3, 5000, gatherSize - 1, gatherSize, gatherSize + 1, 70000, maxPiece, maxPiece + 1, 3*maxPiece + 17,
		}).Draw(t, "size")
		text := bytes.Repeat([]byte("x"), size)
		p := piece{
			octets: mail.Octets{Form: mail.Form(rapid.IntRange(0, 1).Draw(t, "form"))},
			open:   7 * time.Second, commit: 9 * time.Minute,
		}
		step := rapid.SampledFrom([]int{1, 3, 100, 70000}).Draw(t, "step")
		for i := rapid.IntRange(0, 5).Draw(t, "first dot"); i < size; i += step {
			text[i] = '.'
			p.octets.Dots = append(p.octets.Dots, uint32(i))
		}
		for rest := text; len(rest) > 0; {
			n := min(len(rest), rapid.SampledFrom([]int{1, 50, 1000, 9000, 100000}).Draw(t, "segment"))
			if len(p.octets.Segments) > 20 {
				n = len(rest)
			}
			p.octets.Segments = append(p.octets.Segments, rest[:n])
			rest = rest[n:]
		}
		sink := &sinkConn{}
		if err := newLink(sink, beat, new(frameBuffers), nil).sendPiece(commit, &p); err != nil {
			t.Fatal(err)
		}
		var got []byte
		var dots []uint32
		var last kind
		for b := sink.Bytes(); len(b) > 0; {
			k, n, err := parseHeader((*[frameHeader]byte)(b))
			if err != nil || last == commit {
				t.Fatal(k, n, err)
			}
			var segments [1][]byte
			q, err := parsePiece(b[frameHeader:frameHeader+n], &segments, nil)
			if err != nil || q.octets.Form != p.octets.Form || q.open != p.open || q.commit != p.commit {
				t.Fatalf("%+v, %v", q, err)
			}
			for _, d := range q.octets.Dots {
				dots = append(dots, uint32(len(got))+d)
			}
			for _, s := range q.octets.Segments {
				got = append(got, s...)
			}
			last, b = k, b[frameHeader+n:]
		}
		if !bytes.Equal(got, text) || !reflect.DeepEqual(dots, p.octets.Dots) || last != commit {
			t.Fatalf("%d octets and %d dots, of %d and %d, end with %d", len(got), len(dots), len(text),
				len(p.octets.Dots), last)
		}
	})
}

// Frames that are too large are refused.
func TestParseHeader(t *testing.T) {
	for _, c := range []struct {
		k  kind
		n  int
		ok bool
	}{
		{open, maxFields, true}, {open, maxFields + 1, false}, {data, pieceHead + maxPiece, true},
		{commit, pieceHead + maxPiece + 1, false},
		{ping, 0, true}, {ping, 1, false}, {abort, 1, false}, {0, 0, false}, {question + 1, 0, false},
	} {
		if _, _, err := parseHeader((*[frameHeader]byte)(header(nil, c.k, c.n))); (err == nil) != c.ok {
			t.Errorf("kind %d of %d octets: %v", c.k, c.n, err)
		}
	}
}

// FuzzFields checks that each parser, on any octets, returns an error or a value that is the same after encoding and
// parsing it again.
func FuzzFields(f *testing.F) {
	o := opening{d: delivery(), forward: to("x"), traceparent: "00-x", budget: time.Second}
	f.Add([]byte(o.append(nil)))
	f.Add([]byte(appendRefusal(nil, mail.Refuse(550, 1, 1, "no", "upstream", errFrame))))
	f.Add([]byte(appendRefusal(nil, &mail.Refusal{Reply: mail.NewReply(451, 4, 1, "no"), Unreached: true})))
	f.Add([]byte(appendOutcomes(nil,
		[]mail.Outcome{
			{Reply: mail.NewReply(250, 0, 0, "ok")}, {Reply: mail.NewReply(250, 0, 0, "ok")},
			{Reply: mail.NewReply(450, 0, 0, "no")},
		})))
	f.Add([]byte(fields(nil).number(fVersionMin, 1).number(fVersionMax, 9).text(fNode, "n")))
	f.Add([]byte{99, 0, 1, 7, 1, 0, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := parseOpening(b); err == nil {
			if again, err := parseOpening(o.append(nil)); err != nil || !reflect.DeepEqual(again, o) {
				t.Fatalf("%+v, then %+v, %v", o, again, err)
			}
			if strings.ContainsAny(o.d.Reverse.String()+o.d.Own.String()+o.forward.String(), "\r\n") {
				t.Fatalf("%+v", o)
			}
		}
		if a, err := parseAnswer(refused, b); err == nil {
			r := a.refusal()
			if mail.ReplyFor(r) != r.Reply {
				t.Fatalf("%+v is no refusal", r)
			}
		}
		for want := range 4 {
			out, err := parseOutcomes(b, want, "b")
			if err == nil && len(out) != want {
				t.Fatalf("%d outcomes for %d", len(out), want)
			}
			if err != nil || want == 0 {
				continue
			}
			again, err := parseOutcomes(appendOutcomes(nil, out), want, "b")
			if err != nil {
				t.Fatal(err)
			}
			for i := range out {
				if len(out[i].Reply.Text) <= maxText &&
					len(out[i].Reply.Text)+len(out[i].Host)+len(out[i].TLS) < 20000 &&
					!sameOutcome(&out[i], &again[i]) {
					t.Fatalf("%+v, then %+v", out[i], again[i])
				}
			}
		}
		if g, err := parseGreeting(b); err == nil && (g.version < versionMin || g.version > versionMax) {
			t.Fatalf("%+v", g)
		}
		_, _ = parseBudget(b)
		_, _, _ = parseRecipient(b)
		answeredKind(b)
	})
}

// FuzzPiece checks that the dots of a parsed piece are dots of its text, in order, and that it is sent as it was read.
func FuzzPiece(f *testing.F) {
	f.Add(sent(f, &piece{octets: octets("a\r\n..b\r\n..\r\n"), open: time.Second})[frameHeader:])
	f.Add(sent(f, &piece{octets: mail.Octets{Form: mail.Plain}})[frameHeader:])
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, '.'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var segments [1][]byte
		p, err := parsePiece(b, &segments, nil)
		if err != nil {
			return
		}
		var text []byte
		if len(p.octets.Segments) > 0 {
			text = p.octets.Segments[0]
		}
		for i, d := range p.octets.Dots {
			if text[d] != '.' || i > 0 && d <= p.octets.Dots[i-1] {
				t.Fatalf("dot %d at %d", i, d)
			}
		}
		if len(b) <= maxPiece/5 && !bytes.Equal(sent(t, &p)[frameHeader:], b) {
			t.Fatalf("%x is sent as %x", b, sent(t, &p)[frameHeader:])
		}
	})
}
