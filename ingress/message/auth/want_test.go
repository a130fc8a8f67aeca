package auth

import (
	"crypto"
	"io"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// A talliedKey counts the signatures that it makes.
type talliedKey struct {
	crypto.Signer
	made *int
}

func (k talliedKey) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	*k.made++
	return k.Signer.Sign(r, digest, o)
}

// TestFields_Want: which fields a next hop gets by what it is to get, and how many operations of RSA that takes.
func TestFields_Want(t *testing.T) {
	z := dns()
	proved := sending{header: signed(t, "none.example", from("none.example"), plainBody, dkim.Relaxed)}
	unproved := sending{header: from("none.example"), from: "none.example"}
	ours := sending{header: from("hosted.example"), from: "hosted.example"}
	forged := sending{header: from("hosted.example")}
	for _, tt := range []struct {
		name                         string
		s                            sending
		none, aligned, few, arc, all string // the fields, and the operations
	}{
		{"its author's own signature passes", proved, "0", "0", "0", "arc 2", "arc 2"},
		{"SPF alone proves its author", unproved, "0", "0", "arc 2", "arc 2", "relay hosted arc 4"},
		{"SPF alone proves an author of ours", ours, "0", "hosted 1", "hosted arc 3", "hosted arc 3",
			"relay hosted arc 4"},
		{"an author of ours is forged", forged, "0", "0", "arc 2", "arc 2", "relay arc 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			made := 0
			key := func(domain string) dkim.SigningKey {
				k := rsaKey(domain)
				k.Key = talliedKey{k.Key, &made}
				return k
			}
			a, k := newAuthenticator(t, z), key("example.net")
			use(t, a, Keyring{ARC: &k, Relay: []dkim.SigningKey{k},
				Domains: map[string][]dkim.SigningKey{"hosted.example": {key("hosted.example")}}})
			for want, expected := range []string{tt.none, tt.aligned, tt.few, tt.arc, tt.all} {
				s := tt.s
				s.body, s.env.Seal, s.env.Hosted, made = plainBody, Want(want), "hosted.example", 0
				fields, _ := s.hold(t, a, z)
				if got := madeOf(fields, made); got != expected {
					t.Errorf("want %d: got %q, want %q", want, got, expected)
				}
			}
			for want, expected := range []string{tt.none, tt.aligned, tt.few, tt.arc} { // beside one that gets all
				s := tt.s
				s.body, s.env.Seal, s.env.Hosted = plainBody, WantAll, "hosted.example"
				m := s.begin(t, a, z)
				write(m, s.body)
				m.Finish(t.Context())
				if _, err := m.Fields(nil, mail.ModeHold); err != nil {
					t.Fatal(err)
				}
				made = 0
				fields, err := m.FieldsFor(nil, Want(want))
				if got := madeOf(string(fields), made); got != expected || err != nil {
					t.Errorf("want %d beside all: got %q, %v, want %q", want, got, err, expected)
				}
			}
		})
	}
}

// madeOf returns what fields are signed with, and the operations that it took.
func madeOf(fields string, made int) string {
	var words []string
	for _, one := range [][2]string{
		{"relay", "d=example.net; s=rsa"}, {"hosted", "d=hosted.example; s=rsa"}, {"arc", "ARC-Seal"},
	} {
		in := fields
		if one[0] != "arc" {
			_, in, _ = strings.Cut("\r\n"+fields, "\r\nDKIM-Signature:")
		}
		if strings.Contains(strings.Join(strings.Fields(in), " "), one[1]) {
			words = append(words, one[0])
		}
	}
	return strings.Join(append(words, string(rune('0'+made))), " ")
}

// TestFields_WantReason: what is not signed says why.
func TestFields_WantReason(t *testing.T) {
	z := dns()
	good := signed(t, "none.example", from("none.example"), plainBody, dkim.Relaxed)
	arcOnly := rsaKey("example.net")
	for _, tt := range []struct {
		name   string
		header string
		ring   Keyring
		want   Want
		why    string
	}{
		{"no ARC there, proved", good, ring(), WantAligned, "its author's own signature passes"},
		{"no ARC there, unproved", from("none.example"), ring(), WantAligned, noneHelps},
		{"no ARC there, and no key but that of ARC", good, Keyring{ARC: &arcOnly}, WantAligned, noneHelps},
		{"ARC of the unproved, proved", good, ring(), WantUnproved, "its author's own signature passes"},
		{"nothing wanted", good, ring(), WantNone, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAuthenticator(t, z)
			use(t, a, tt.ring)
			s := sending{header: tt.header, body: plainBody, env: Envelope{Seal: tt.want}}
			m := s.begin(t, a, z)
			write(m, s.body)
			m.Finish(t.Context())
			if _, err := m.Fields(nil, mail.ModeHold); err != nil {
				t.Fatal(err)
			}
			if with, why := m.Signed(); with != "" || why != tt.why {
				t.Errorf("signed with %q, %q", with, why)
			}
		})
	}
}
