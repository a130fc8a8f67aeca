package message

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// testKey is of 16 octets.
var testKey = []byte("sixteen octets!!")

// A store needs keys for its marks.
func TestConfig_MarkKeys(t *testing.T) {
	cfg := Config{Hostname: "h", LoopTagKeys: [][]byte{testKey}, Store: &ingresstest.Store{}}
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "mark_keys") {
		t.Errorf("got %v", err)
	}
	cfg.MarkKeys = [][]byte{testKey}
	if _, err := New(cfg); err != nil {
		t.Error(err)
	}
}

// An unknown client has no address.
func TestMessage_UnknownClient(t *testing.T) {
	a, err := auth.New(auth.Config{AuthservID: "mx.example.net", Resolver: ingresstest.Zone{}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Hostname: "h", LoopTagKeys: [][]byte{testKey}, Auth: a})
	if err != nil {
		t.Fatal(err)
	}
	client := wire.Client{Addr: netip.MustParseAddrPort("10.1.2.3:25"), Unknown: true}
	m := s.Begin(Envelope{Client: &client, Recipients: []Recipient{{}}, Route: &mail.Route{}}, nil, nil, nil)
	if e := m.authEnvelope(); e.Client.Addr.IsValid() {
		t.Errorf("client %v", e.Client)
	}
}
