package nodes_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/smtp"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/loadtest/world"
)

// TestPublic_Why: whichever node of a cluster the reader of a bounce comes to, the page knows the refusal of each.
func TestPublic_Why(t *testing.T) {
	c := &cluster{keys: t.TempDir(), world: world.World{
		Routes: "gone@x.example reject 550 5.1.1\n@x.example smtp://127.0.0.1:9\n", DNS: dnstest.Start(t, ""),
		Config: "public: {addr: \"127.0.0.1:0\", url: \"https://relay.example\"}\n",
	}}
	for _, name := range []string{"a", "b", "c"} {
		c.join(t, name)
	}
	client, err := smtp.Dial(c.nodes[0].Node.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Mail("alice@sender.example"); err != nil {
		t.Fatal(err)
	}
	refusal := client.Rcpt("gone@x.example")
	m := regexp.MustCompile(`id=([0-9a-f]{32})`).FindStringSubmatch(fmt.Sprint(refusal))
	if m == nil {
		t.Fatalf("got %v", refusal)
	}
	for i, want := range []int{http.StatusOK, http.StatusOK, http.StatusOK} {
		status, body := publicPage(t, c.nodes[i].Node.PublicAddr(), "/why?id="+m[1])
		if status != want || !strings.Contains(body, "550 5.1.1") {
			t.Errorf("node %d: %d\n%s", i, status, body)
		}
	}
	status, _ := publicPage(t, c.nodes[1].Node.PublicAddr(), "/why?id="+strings.Repeat("ab", 16))
	if status != http.StatusNotFound {
		t.Errorf("an id of no node: %d", status)
	}
	if status, _ := publicPage(t, c.nodes[1].Node.PublicAddr(), "/egress-list"); status != http.StatusNotFound {
		t.Errorf("a list that would lack the other nodes: %d", status)
	}
}

func publicPage(t *testing.T, addr, path string) (int, string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer c.CloseIdleConnections()
	resp, err := c.Get("https://" + addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
