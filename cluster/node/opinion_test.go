package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"

	msgauth "github.com/emersion/go-msgauth/dkim"

	"github.com/millrace/millrace/ingress/ingresstest"
)

// A keyZone has one key.
type keyZone struct {
	ingresstest.Zone
	record string
}

func (z keyZone) LookupTXT(context.Context, string) ([]string, error) { return []string{z.record}, nil }

// TestSecondOpinion: go-msgauth is heard where it says otherwise, and is not asked what would take it long.
func TestSecondOpinion(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	zone := keyZone{record: "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)}
	var signed bytes.Buffer
	if err := msgauth.Sign(&signed, strings.NewReader("From: a@author.example\r\n\r\ntext\r\n"), &msgauth.SignOptions{
		Domain: "author.example", Selector: "k", Signer: private,
	}); err != nil {
		t.Fatal(err)
	}
	good := signed.String()
	for name, tt := range map[string]struct{ message, ours, want string }{
		"both say pass":         {good, "d=author.example pass", ""},
		"ours says fail":        {good, "d=author.example fail", "go-msgauth says pass, and we do not"},
		"theirs says fail":      {good + "more\r\n", "d=author.example pass", "we say pass, go-msgauth says: "},
		"both say fail":         {good + "more\r\n", "d=author.example fail", ""},
		"without a signature":   {"From: a@author.example\r\n\r\ntext\r\n", "", ""},
		"a field of many lines": {"X: a\r\n" + strings.Repeat(" b\r\n", 2000) + good, "", "not asked"},
		"many empty lines":      {good + strings.Repeat("\r\n", 2000), "d=author.example pass", "not asked"},
	} {
		got := strings.Join(secondOpinion(t.Context(), zone, []byte(tt.message), tt.ours), "; ")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
