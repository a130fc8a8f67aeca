package smtpclient

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

func TestTransaction_Replies(t *testing.T) {
	recipients := smtptest.ByLocalPart()
	recipients["multi"] = smtptest.Answer{Reply: "550-5.1.1 no such\n550-5.1.1 user\n550 5.1.1 here"}
	for _, tc := range []struct {
		name     string
		verb     string
		answer   smtptest.Answer
		rcpts    []string
		want     []string // the replies to each Rcpt; "" for accepted
		us       bool
		reusable bool
	}{
		{
			"a refused MAIL is the error of every Rcpt", "MAIL", smtptest.Answer{Reply: "550 5.7.1 not you"},
			[]string{"a@x.test", "b@x.test"}, []string{"550 5.7.1 not you", "550 5.7.1 not you"}, false, true,
		},
		{
			"a refused first RCPT leaves MAIL open", "", smtptest.Answer{},
			[]string{"550@x.test", "a@x.test", "451@x.test", "b@x.test"},
			[]string{
				"550 5.1.1 Refused, as this address asks for", "", "451 4.1.1 Refused, as this address asks for", "",
			}, false, true,
		},
		{
			"lines are kept and codes stripped", "", smtptest.Answer{}, []string{"multi@x.test"},
			[]string{"550 5.1.1 no such / user / here"}, false, true,
		},
		{
			"421 is passed on as 451", "", smtptest.Answer{}, []string{"421@x.test"},
			[]string{"451 4.3.2 Closing, as this address asks for"}, false, false,
		},
		{
			"503 is about us", "MAIL", smtptest.Answer{Reply: "503 5.5.1 what?"}, []string{"a@x.test"},
			[]string{"451 4.7.0 Destination does not take mail from here at the moment, try again later"}, true, true,
		},
		{
			"our own address is about us", "RCPT", smtptest.Answer{Reply: "550 5.7.1 [127.0.0.1] is on my list"},
			[]string{"a@x.test"},
			[]string{"451 4.7.0 Destination does not take mail from here at the moment, try again later"}, true, true,
		},
		{
			"another address that begins like ours is not", "RCPT",
			smtptest.Answer{Reply: "550 5.7.1 127.0.0.12 is on my list"}, []string{"a@x.test"},
			[]string{"550 5.7.1 127.0.0.12 is on my list"}, false, true,
		},
		{
			"354 to RCPT is a protocol error", "RCPT", smtptest.Answer{Reply: "354 go"}, []string{"a@x.test"},
			[]string{"451 4.5.0 Destination does not keep to the protocol, try again later"}, false, false,
		},
	} {
		for _, ext := range [][]string{nil, smtptest.Without("PIPELINING")} {
			t.Run(tc.name, func(t *testing.T) {
				d := smtptest.Start(t,
					smtptest.Behaviour{
						Extensions: ext, Recipients: recipients,
						Answers: map[string]smtptest.Answer{tc.verb: tc.answer},
					})
				s := dial(t, target(d))
				s.Begin(mail.Delivery{})
				for i, r := range tc.rcpts {
					err := s.Rcpt(t.Context(), path(r))
					var refusal *mail.Refusal
					got := ""
					if errors.As(err, &refusal) {
						got = refusal.Reply.String()
						if refusal.AboutUs != tc.us || refusal.Host != "mx.dest.test" {
							t.Errorf("got %+v", refusal)
						}
					}
					if got != tc.want[i] {
						t.Errorf("%s: got %q (%v), want %q", r, got, err, tc.want[i])
					}
				}
				if s.Reusable() != tc.reusable {
					t.Errorf("reusable: got %v", s.Reusable())
				}
				if !tc.reusable {
					return
				}
				d.Set(smtptest.Behaviour{Extensions: ext})
				if out := send(t, s, mail.Stuffed, octets("a: b\r\n\r\n", 0, true)); out[0].Reply.Code != 250 {
					t.Errorf("next message: got %+v", out)
				}
				clean(t, d)
			})
		}
	}
}

func TestTransaction_Parameters(t *testing.T) {
	eight := mail.Params{Body: mail.Body8BitMIME}
	for _, tc := range []struct {
		name    string
		b       smtptest.Behaviour
		d       mail.Delivery
		forward string
		want    string // the MAIL line, or the refusal
		unsaid  bool
	}{
		{
			"SIZE counts our fields", smtptest.Behaviour{Size: 5000},
			mail.Delivery{Params: mail.Params{Size: 1000}, Extra: 200}, "a@x.test", "MAIL FROM:<> SIZE=1200", false,
		},
		{
			"SIZE is not said where it is not offered", smtptest.Behaviour{},
			mail.Delivery{Params: mail.Params{Size: 1000}}, "a@x.test", "MAIL FROM:<>", false,
		},
		{
			"SIZE stays inside the limit where only our fields may go over it", smtptest.Behaviour{Size: 1100},
			mail.Delivery{Params: mail.Params{Size: 1000}, Extra: 200}, "a@x.test", "MAIL FROM:<> SIZE=1100", false,
		},
		{
			"SIZE at the limit is the destination's to judge", smtptest.Behaviour{Size: 1000},
			mail.Delivery{Params: mail.Params{Size: 1000}, Extra: 200}, "a@x.test", "MAIL FROM:<> SIZE=1000", false,
		},
		{
			"SIZE over the limit is refused at once", smtptest.Behaviour{Size: 999},
			mail.Delivery{Params: mail.Params{Size: 1000}, Extra: 200}, "a@x.test",
			"552 5.3.4 Message is larger than the destination takes", false,
		},
		{
			"BODY is passed on", smtptest.Behaviour{}, mail.Delivery{Params: eight}, "a@x.test",
			"MAIL FROM:<> BODY=8BITMIME", false,
		},
		{
			"BODY is left out where it is not offered", smtptest.Behaviour{Extensions: []string{}},
			mail.Delivery{Params: eight}, "a@x.test", "MAIL FROM:<>", true,
		},
		{
			"8-bit may be refused", smtptest.Behaviour{Extensions: []string{}},
			mail.Delivery{Params: eight, EightBit: mail.EightBitRefuse}, "a@x.test",
			"550 5.6.3 Destination does not take 8-bit messages", false,
		},
		{
			"SMTPUTF8 is passed on", smtptest.Behaviour{}, mail.Delivery{Params: mail.Params{SMTPUTF8: true}},
			"a@x.test", "MAIL FROM:<> SMTPUTF8", false,
		},
		{
			"SMTPUTF8 is said for a path that needs it", smtptest.Behaviour{}, mail.Delivery{}, "ä@x.test",
			"MAIL FROM:<> SMTPUTF8", false,
		},
		{
			"SMTPUTF8 is left out for an ASCII envelope where it is not offered",
			smtptest.Behaviour{Extensions: []string{}}, mail.Delivery{Params: mail.Params{SMTPUTF8: true}}, "a@x.test",
			"MAIL FROM:<>", false,
		},
		{
			"a reverse-path beyond ASCII is refused there", smtptest.Behaviour{Extensions: []string{}},
			mail.Delivery{Reverse: path("ü@x.test")}, "a@x.test",
			"550 5.6.7 Destination does not take addresses beyond ASCII", false,
		},
		{
			"a forward-path beyond ASCII too", smtptest.Behaviour{Extensions: []string{}}, mail.Delivery{}, "ü@x.test",
			"550 5.6.7 Destination does not take addresses beyond ASCII", false,
		},
		{
			"a path that ends the command is not sent", smtptest.Behaviour{},
			mail.Delivery{Reverse: mail.Path{Local: "a> SIZE=1 <b", Domain: "x.test"}}, "a@x.test",
			"550 5.1.7 Sender address cannot be passed on", false,
		},
		{
			"quotes are kept", smtptest.Behaviour{}, mail.Delivery{Reverse: path(`"a> \"b"@x.test`)}, "a@x.test",
			`MAIL FROM:<"a> \"b"@x.test>`, false,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := smtptest.Start(t, tc.b)
			s := dial(t, target(d))
			s.Begin(tc.d)
			err := s.Rcpt(t.Context(), path(tc.forward))
			got := ""
			if err != nil {
				got = mail.ReplyFor(err).String()
				if d.Counts().Commands["MAIL"] != 0 {
					t.Error("MAIL was sent")
				}
			} else {
				all := d.Commands()
				_, got, _ = strings.Cut(all[slices.IndexFunc(all, func(l string) bool {
					return strings.Contains(l, "MAIL")
				})], " ")
			}
			if got != tc.want || s.EightBitUnannounced() != tc.unsaid {
				t.Errorf("got %q, unsaid %v, want %q", got, s.EightBitUnannounced(), tc.want)
			}
			clean(t, d)
		})
	}
}

func TestTransaction_RefusedData(t *testing.T) {
	d := smtptest.Start(t,
		smtptest.Behaviour{
			Extensions: smtptest.Without("CHUNKING"),
			Answers:    map[string]smtptest.Answer{"DATA": {Reply: "451 4.3.0 not now"}},
		})
	s := dial(t, target(d))
	s.Begin(mail.Delivery{})
	if err := s.Rcpt(t.Context(), path("a@x.test")); err != nil {
		t.Fatal(err)
	}
	err := s.Data(t.Context(), mail.Stuffed)
	if got := mail.ReplyFor(err).String(); got != "451 4.3.0 not now" || !s.Reusable() {
		t.Fatalf("got %v, reusable %v", err, s.Reusable())
	}
	d.Set(smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING")})
	if out := send(t, s, mail.Stuffed, octets("x\r\n", 0, true)); out[0].Reply.Code != 250 {
		t.Errorf("got %+v", out)
	}
	clean(t, d)
}

func TestTransaction_Limits(t *testing.T) {
	d := smtptest.Start(t,
		smtptest.Behaviour{Extensions: append(smtptest.DefaultExtensions(),
			"limits MAILMAX=2 RCPTMAX=1 RCPTDOMAINMAX=1")})
	s := dial(t, target(d))
	s.Begin(mail.Delivery{})
	if err := s.Rcpt(t.Context(), path("a@x.test")); err != nil {
		t.Fatal(err)
	}
	if got := mail.ReplyFor(s.Rcpt(t.Context(),
		path("b@x.test"))).String(); got != "452 4.5.3 Send this recipient in a transaction of its own" {
		t.Errorf("got %s", got)
	}
	if err := s.Reset(t.Context()); err != nil || !s.Reusable() {
		t.Fatal(err)
	}
	if send(t, s, mail.Stuffed, octets("x\r\n", 0, true)); s.Reusable() {
		t.Error("reusable over MAILMAX")
	}
}

func TestTransaction_ConnError(t *testing.T) {
	for _, verb := range []string{"MAIL", "RCPT", "DATA", "RSET"} {
		for _, a := range []smtptest.Answer{{Close: true}, {Reset: true}, {After: time.Hour}} {
			d := smtptest.Start(t,
				smtptest.Behaviour{Extensions: []string{}, Answers: map[string]smtptest.Answer{verb: a}})
			limit := 10 * time.Second
			if a.After > 0 {
				limit = 50 * time.Millisecond
			}
			s, err := Dial(t.Context(), Config{Data: limit, tune: tuning{mail: limit, rcpt: limit}}, target(d))
			if err != nil {
				t.Fatal(err)
			}
			s.Begin(mail.Delivery{})
			err = s.Rcpt(t.Context(), path("a@x.test"))
			if err == nil && verb == "RSET" {
				err = s.Reset(t.Context())
			} else if err == nil {
				err = s.Data(t.Context(), mail.Stuffed)
			}
			var connErr *ConnError
			if !errors.As(err, &connErr) || connErr.Verb != verb || connErr.Host != "mx.dest.test" ||
				connErr.Reply().Code != 451 {
				t.Errorf("%s: got %v", verb, err)
			}
			if s.Reusable() || s.Alive() {
				t.Errorf("%s: reusable", verb)
			}
			if err := s.Rcpt(t.Context(), path("a@x.test")); !errors.Is(err, errBroken) {
				t.Errorf("%s: got %v", verb, err)
			}
			if out := s.Commit(t.Context(), mail.Octets{}); len(out) > 0 &&
				(out[0].Reply.Code != 451 || out[0].InDoubt) {
				t.Errorf("%s: got %+v", verb, out)
			}
			s.Close()
			d.Close()
		}
	}
}
