package dialogues_test

import (
	"net"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestSRS_BouncesGoHome sends a message through the relay, and answers it from where
// it arrived with bounces to its reverse-path.
func TestSRS_BouncesGoHome(t *testing.T) {
	const most = 20
	d := smtptest.Start(t, smtptest.Behaviour{})
	_, port, err := net.SplitHostPort(d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	n := world.Start(t, world.World{
		Routes: "b@x.example c@y.example\n",
		Config: "egress: {port: " + port + ", allow_private: true}\nsrs: {domain: srs.example, key_file: srs.key}",
		DNS: dnstest.Start(t, "y.example. 60 IN MX 10 mx.example.\nclient.example. 60 IN MX 10 mx.example.\n"+
			"mx.example. 60 IN A 127.0.0.1\n"),
	})
	s := world.Dial(t, source.Config{Addr: n.Addr})
	world.Send(t, s,
		source.Message{
			Reverse: "Alice@client.example", Forward: []string{"b@x.example"},
			Octets: []byte("Subject: hi\r\n\r\nhi\r\n"),
		})
	first := world.Messages(t, d, 1)[0]
	if want := rewriteSRS(t, "{srs Alice@client.example}"); first.Reverse != want ||
		first.Forwards[0] != "c@y.example" {
		t.Fatalf("%s from <%s>, want <%s>", first.Forwards, first.Reverse, want)
	}

	for i := range most {
		to := first.Reverse
		if i%2 == 1 {
			to = strings.ToLower(to) // the same address, and counted as such
		}
		world.Send(t, s, source.Message{Forward: []string{to}, Octets: []byte("Subject: bounce\r\n\r\nno\r\n")})
	}
	for _, m := range world.Messages(t, d, 1+most)[1:] {
		if m.Reverse != "" || len(m.Forwards) != 1 || !strings.EqualFold(m.Forwards[0], "Alice@client.example") {
			t.Fatalf("a bounce came to %s from <%s>", m.Forwards, m.Reverse)
		}
	}
	if got := world.Messages(t, d, 2)[1].Forwards[0]; got != "Alice@client.example" {
		t.Errorf("the first bounce came to %s", got)
	}

	r, err := s.Send(source.Message{Forward: []string{first.Reverse}, Octets: []byte("Subject: bounce\r\n\r\nno\r\n")})
	if err != nil || len(r.Rcpt) != 1 || r.Rcpt[0].Class() != 4 || !strings.Contains(r.Rcpt[0].String(), "4.7.1") {
		t.Errorf("one too many: %v, %v", r.Rcpt, err)
	}
	other := rewriteSRS(t, "{srs bob@client.example}")
	world.Send(t, world.Dial(t, source.Config{Addr: n.Addr}),
		source.Message{Forward: []string{other}, Octets: []byte("Subject: bounce\r\n\r\nno\r\n")})
	world.Violations(t, d)
}
