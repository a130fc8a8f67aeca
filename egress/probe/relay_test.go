package probe_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/probe"
	"github.com/millrace/millrace/egress/smtptest"
)

// relay tries the tricks on a destination.
func relay(t *testing.T, host *smtptest.Server, s probe.Stranger) *probe.Report {
	t.Helper()
	s.Addr, s.Helo = host.Addr(), "probe.example"
	if s.To == "" {
		s.To = "victim@elsewhere.example"
	}
	report, err := probe.Relay(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// hosts returns the behaviour of a host that takes mail for the postmaster of a domain, and for what takes reports.
func hosts(takes func(forward string) bool) smtptest.Behaviour {
	return smtptest.Behaviour{Hostname: "mx.ours.example", On: func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb != "RCPT" || s.Forward == "postmaster@ours.example" || takes(s.Forward) {
			return smtptest.Answer{}, false
		}
		return smtptest.Answer{Reply: "554 5.7.1 Relay access denied"}, true
	}}
}

// answers counts the answers to tricks.
func answers(r *probe.Report) map[string]int {
	count := make(map[string]int)
	for _, one := range r.Tried {
		count[one.Answer]++
	}
	return count
}

// TestTricks_Enough: there are more than 30 of them, each with a name of its own.
func TestTricks_Enough(t *testing.T) {
	seen := make(map[string]bool)
	for _, trick := range probe.Tricks() {
		if trick.Name == "" || seen[trick.Name] {
			t.Errorf("%+v", trick)
		}
		seen[trick.Name] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d tricks", len(seen))
	}
}

// TestRelay_Closed: a host that takes mail for its own addresses alone is closed, and no trick is left out.
func TestRelay_Closed(t *testing.T) {
	host := smtptest.Start(t, hosts(func(string) bool { return false }))
	report := relay(t, host, probe.Stranger{Domain: "ours.example"})
	if report.Conclusion != probe.Closed || report.Host != "mx.ours.example" ||
		answers(report)[probe.Refused] != len(probe.Tricks()) {
		t.Errorf("%+v", report)
	}
	nothingLeft(t, host)
}

// nothingLeft expects that a host got neither a message nor what could become one.
func nothingLeft(t *testing.T, host *smtptest.Server) {
	t.Helper()
	if n := len(host.Messages()); n > 0 {
		t.Errorf("%d messages were left", n)
	}
	for _, command := range host.Commands() {
		_, command, _ = strings.Cut(command, " ") // the session
		if strings.HasPrefix(command, "DATA") || strings.HasPrefix(command, "BDAT") && command != "BDAT 0" {
			t.Errorf("%s was said", command)
		}
	}
}

// TestRelay_Open: a host that takes everything is open, is told so in words, and gets no message.
func TestRelay_Open(t *testing.T) {
	host := smtptest.Start(t, smtptest.Behaviour{Hostname: "mx.ours.example"})
	report := relay(t, host, probe.Stranger{Domain: "ours.example"})
	if n := answers(report)[probe.Taken]; report.Conclusion != probe.Open || n < 20 ||
		!strings.Contains(strings.Join(report.Says, " "), "no message was sent") {
		t.Errorf("%d taken: %+v", n, report)
	}
	nothingLeft(t, host)
}

// TestRelay_EachTrick: a host that falls for one kind of trick is open, and the tricks of that kind are named.
func TestRelay_EachTrick(t *testing.T) {
	for name, tt := range map[string]struct {
		takes func(forward string) bool
		named string
	}{
		"the percent hack": {
			func(f string) bool { return f == "victim%elsewhere.example@ours.example" }, "the percent hack",
		},
		"bang paths": {
			func(f string) bool { return f == "elsewhere.example!victim@ours.example" }, "a bang path",
		},
		"quoted addresses": {
			func(f string) bool { return f == `"victim@elsewhere.example"@ours.example` }, "a quoted address",
		},
		"any case": {func(f string) bool { return f == "ViCtIm@ElSeWhErE.ExAmPlE" }, "mixed case"},
		"literals": {func(f string) bool { return f == "victim@[192.0.2.1]" }, "an address literal"},
	} {
		t.Run(name, func(t *testing.T) {
			report := relay(t, smtptest.Start(t, hosts(tt.takes)), probe.Stranger{Domain: "ours.example"})
			i := slices.IndexFunc(report.Tried, func(one probe.Tried) bool { return one.Answer == probe.Taken })
			if report.Conclusion != probe.Open || i < 0 || report.Tried[i].Trick != tt.named ||
				answers(report)[probe.Taken] != 1 {
				t.Errorf("%+v", report)
			}
		})
	}
}

// TestRelay_Unclear: where the answers say nothing, that is said: a catch-all, greylisting, a host that takes no mail
// from here, a domain of the recipient that takes no mail.
func TestRelay_Unclear(t *testing.T) {
	refuses := func(reply string) smtptest.Behaviour {
		return smtptest.Behaviour{Answers: map[string]smtptest.Answer{"RCPT": {Reply: reply}}}
	}
	for name, tt := range map[string]struct {
		host   smtptest.Behaviour
		answer string
		says   string
	}{
		"a catch-all": {
			hosts(func(f string) bool { return strings.HasSuffix(f, "@ours.example") }), probe.MayBeName, "catch-all",
		},
		"greylisting":      {refuses("450 4.7.1 Greylisted"), probe.PutOff, "ask again later"},
		"a blocked client": {refuses("554 5.7.1 Blocked"), probe.Refused, "--domain"},
		"a null MX":        {refuses("556 5.1.10 No mail there"), probe.NoDomain, "--to"},
	} {
		t.Run(name, func(t *testing.T) {
			host := smtptest.Start(t, tt.host)
			report := relay(t, host, probe.Stranger{Domain: "ours.example"})
			if report.Conclusion != probe.Unclear || answers(report)[tt.answer] == 0 ||
				!strings.Contains(strings.Join(report.Says, " "), tt.says) {
				t.Errorf("%+v", report)
			}
			nothingLeft(t, host)
		})
	}
}

// TestRelay_Ends: a host that ends each session after a few mistakes is asked to the end, on other sessions.
func TestRelay_Ends(t *testing.T) {
	behaviour := hosts(func(string) bool { return false })
	inner := behaviour.On
	var mu sync.Mutex
	refused := make(map[int64]int)
	behaviour.On = func(s smtptest.Step) (smtptest.Answer, bool) {
		a, ok := inner(s)
		if ok {
			mu.Lock()
			defer mu.Unlock()
			if refused[s.Session]++; refused[s.Session] > 2 {
				return smtptest.Answer{Reply: "421 4.7.0 Too many errors", Close: true}, true
			}
		}
		return a, ok
	}
	report := relay(t, smtptest.Start(t, behaviour), probe.Stranger{Domain: "ours.example"})
	if report.Conclusion != probe.Closed {
		t.Errorf("%+v", report)
	}
}

// TestRelay_TLS: a host that wants STARTTLS in front of MAIL gets it, and no certificate is asked for.
func TestRelay_TLS(t *testing.T) {
	behaviour := hosts(func(string) bool { return false })
	inner := behaviour.On
	behaviour.TLS = smtptest.NewCA().Server("mx.ours.example")
	behaviour.On = func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb == "MAIL" && s.Message.TLS == 0 && s.Message.Helo != "" {
			return smtptest.Answer{Reply: "530 5.7.0 Must issue a STARTTLS command first"}, true
		}
		return inner(s)
	}
	report := relay(t, smtptest.Start(t, behaviour), probe.Stranger{Domain: "ours.example"})
	if report.Conclusion != probe.Closed || !strings.HasPrefix(report.Postmaster, "250") {
		t.Errorf("%+v", report)
	}
}

// TestRelay_NoHost: a host that does not take us is an error, with its words.
func TestRelay_NoHost(t *testing.T) {
	host := smtptest.Start(t, smtptest.Behaviour{Answers: map[string]smtptest.Answer{
		smtptest.Greeting: {Reply: "554 5.7.1 Go away", Close: true},
	}})
	_, err := probe.Relay(t.Context(), probe.Stranger{Addr: host.Addr(), To: "v@elsewhere.example", Helo: "h.example"})
	if err == nil || !strings.Contains(err.Error(), "554 5.7.1 Go away") {
		t.Errorf("%v", err)
	}
}

// ExampleTricks shows how tricks are written.
func ExampleTricks() {
	for _, t := range probe.Tricks()[12:15] {
		fmt.Println(t.To, t.Name)
	}
	// Output:
	// <{local}%{domain}@{ours}> the percent hack
	// <{local}%{domain}@{host}> the percent hack at the host's name
	// <{local}%{domain}@[{ip}]> the percent hack at the host's address
}
