package nodes_test

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/command"
	"github.com/millrace/millrace/cluster/report"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// reportOf asks a node for a report.
func reportOf(t *testing.T, r *world.Relay, what string) (status int, p report.Preview) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		"http://"+r.Node.AdminAddr().String()+"/api/v1/reports/"+what, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, p
}

// TestReports_Cluster: whichever node is asked, a report has what all of them counted: each session with an MX host
// once, and each message.
func TestReports_Cluster(t *testing.T) {
	home := smtptest.Start(t, smtptest.Behaviour{})
	_, port, err := net.SplitHostPort(home.Addr())
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "dkim.pem")
	if code := command.Main([]string{"dkim", "new", "--domain", "relay.example", "--selector", "s", "--out", key}, nil,
		&strings.Builder{}, os.Stderr); code != 0 {
		t.Fatal(code)
	}
	c := &cluster{keys: t.TempDir(), world: administered(t, world.World{
		Judged: true, Routes: "/(.+)/@x.example $1@y.example\ndomain x.example\n",
		DNS: dnstest.Start(t, "y.example. 60 IN MX 10 mx.y.example.\nmx.y.example. 60 IN A 127.0.0.1\n"+
			"_smtp._tls.y.example. 60 IN TXT \"v=TLSRPTv1; rua=mailto:tls@y.example\"\n"+
			"_dmarc.client.example. 60 IN TXT \"v=DMARC1; p=none; "+
			"rua=mailto:r@client.example,mailto:r@else.example\"\n"),
		Config: "egress: {port: " + port + ", allow_private: true}\n" +
			"dkim: {unpublished: sign, relay: [{domain: relay.example, selector: s, key_file: " + key + "}]}\n" +
			"reports: {organization: Relay, contact: reports@relay.example}\n",
	})}
	c.join(t, "a")
	c.join(t, "b")
	for _, r := range c.nodes {
		world.Send(t, world.Dial(t, source.Config{Addr: r.Addr}), source.Message{
			Reverse: "a@client.example", Forward: []string{"b@x.example"},
			Octets: []byte("From: a@client.example\r\nSubject: x\r\n\r\nhi\r\n"),
		})
	}
	for _, r := range c.nodes {
		status, p := reportOf(t, r, "dmarc/client.example")
		if status != http.StatusOK || strings.Count(p.Report, "<count>2</count>") != 1 ||
			!strings.Contains(p.Report, "<header_from>client.example</header_from>") ||
			strings.Join(p.Readers, " ") != "mailto:r@client.example" || len(p.Refused) != 1 {
			t.Errorf("%d %+v", status, p)
		}
		status, p = reportOf(t, r, "tls/y.example")
		if status != http.StatusOK || strings.Count(p.Report, `"result-type": "starttls-not-supported"`) != 1 ||
			len(p.Readers) != 1 || !strings.Contains(strings.Join(p.Notes, " "), "partial") {
			t.Errorf("%d %+v", status, p)
		}
		if status, _ := reportOf(t, r, "other/y.example"); status != http.StatusBadRequest {
			t.Errorf("of no kind: %d", status)
		}
	}
}
