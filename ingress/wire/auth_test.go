package wire

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// startForUsers starts a server whose clients log in as alice with the password right.
func startForUsers(t *testing.T, with ...func(*Config)) (r *rig, said *[]string) {
	said = new([]string)
	return start(t, func(c *Config) {
		c.TLS = tlsOf(certificate(t))
		c.Login = func(_ context.Context, _ *Client, user, password string) error {
			*said = append(*said, user+" "+password)
			if user == "alice" && password == "right" {
				return nil
			}
			return mail.Refuse(535, 7, 8, "Authentication failed", "login failed", nil)
		}
		for _, set := range with {
			set(c)
		}
	}), said
}

// secure goes through EHLO and STARTTLS, and returns what EHLO offers before and after.
func (p *testClient) secure() (clear, under string) {
	hello := func() (all string) {
		p.say("EHLO c.example\r\n")
		for {
			line := p.line()
			all += line + "\n"
			if !strings.HasPrefix(line, "250-") {
				return all
			}
		}
	}
	p.want("220")
	clear = hello()
	p.say("STARTTLS\r\n")
	p.want("220")
	p.Conn = tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true})
	return clear, hello()
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// TestAuth_Dialogues: what a client may say to log in, and what it is answered.
func TestAuth_Dialogues(t *testing.T) {
	right := b64("\x00alice\x00right")
	for _, c := range []struct {
		name string
		say  string // lines, each of which is answered by one of want
		want []string
		in   bool
	}{
		{"PLAIN at once", "AUTH PLAIN " + right, []string{"235 2.7.0"}, true},
		{"PLAIN with its own name to act as", "AUTH PLAIN " + b64("alice\x00alice\x00right"), []string{"235"}, true},
		{"the verb and the mechanism in lower case", "auth plain " + right, []string{"235"}, true},
		{"PLAIN when it is asked", "AUTH PLAIN|" + right, []string{"334 ", "235"}, true},
		{
			"LOGIN", "AUTH LOGIN|" + b64("alice") + "|" + b64("right"),
			[]string{"334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235"}, true,
		},
		{
			"LOGIN with the user at once", "AUTH LOGIN " + b64("alice") + "|" + b64("right"),
			[]string{"334 UGFzc3dvcmQ6", "235"}, true,
		},
		{"twice", "AUTH PLAIN " + right + "|AUTH PLAIN " + right, []string{"235", "503 5.5.1 You are"}, true},
		{"again after a wrong password", "AUTH PLAIN " + b64("\x00alice\x00wrong") + "|AUTH PLAIN " + right,
			[]string{"535 5.7.8", "235"}, true},
		{"a wrong password", "AUTH PLAIN " + b64("\x00alice\x00wrong"), []string{"535 5.7.8"}, false},
		{"another one to act as", "AUTH PLAIN " + b64("bob\x00alice\x00right"), []string{"501 5.5.2"}, false},
		{"no password", "AUTH PLAIN " + b64("\x00alice\x00"), []string{"501 5.5.2"}, false},
		{"no user", "AUTH PLAIN " + b64("\x00\x00right"), []string{"501 5.5.2"}, false},
		{"one NUL alone", "AUTH PLAIN " + b64("alice\x00right"), []string{"501 5.5.2"}, false},
		{"a NUL in the password", "AUTH PLAIN " + b64("\x00alice\x00right\x00"), []string{"501 5.5.2"}, false},
		{"nothing as the response", "AUTH PLAIN =", []string{"501 5.5.2"}, false},
		{"no base64", "AUTH PLAIN !!!", []string{"501 5.5.2"}, false},
		{"base64 without its end", "AUTH LOGIN|" + strings.TrimRight(b64("alice"), "="), []string{"334", "501"}, false},
		{"a password that is too long", "AUTH PLAIN " + b64("\x00alice\x00"+strings.Repeat("x", 256)),
			[]string{"501 5.5.2"}, false},
		{"a cancelled login", "AUTH PLAIN|*", []string{"334", "501 5.7.0"}, false},
		{"a command in place of a response", "AUTH LOGIN|MAIL FROM:<a@x.example>", []string{"334", "501 5.5.2"}, false},
		{"a line that is too long", "AUTH LOGIN|" + strings.Repeat("A", 4000), []string{"334", "500 5.5.2"}, false},
		{"no mechanism", "AUTH", []string{"504 5.5.4"}, false},
		{"a mechanism that is not offered", "AUTH CRAM-MD5", []string{"504 5.5.4"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := startForUsers(t)
			p := r.dial()
			p.secure()
			for i, line := range strings.Split(c.say, "|") {
				p.say(line + "\r\n")
				p.want(c.want[i])
			}
			p.say("MAIL FROM:<a@x.example>\r\n")
			if c.in {
				p.want("250 2.1.0")
			} else {
				p.want("530 5.7.0 Authentication required")
			}
		})
	}
}

// TestAuth_Clear: in clear no login is offered, none is taken, and no mail: a password sent so is not compared.
func TestAuth_Clear(t *testing.T) {
	r, said := startForUsers(t)
	p := r.dial()
	clear, under := p.secure()
	if strings.Contains(clear, "AUTH") || !strings.Contains(under, "250-AUTH PLAIN LOGIN\n") {
		t.Errorf("offered in clear %q, under TLS %q", clear, under)
	}
	q := r.dial()
	q.want("220")
	q.say("EHLO c.example\r\n")
	q.want("250 ")
	q.say("AUTH PLAIN " + b64("\x00alice\x00right") + "\r\n")
	q.want("530 5.7.0 Must issue a STARTTLS command first")
	q.say("MAIL FROM:<a@x.example>\r\n")
	q.want("530 5.7.0 Must issue a STARTTLS command first")
	if len(*said) > 0 {
		t.Errorf("compared %q", *said)
	}
}

// TestAuth_Elsewhere: a listener of hosts knows no AUTH.
func TestAuth_Elsewhere(t *testing.T) {
	r := start(t, func(c *Config) { c.TLS = tlsOf(certificate(t)) })
	p := r.dial()
	if clear, under := p.secure(); strings.Contains(clear+under, "AUTH") {
		t.Error("AUTH is offered")
	}
	p.say("AUTH PLAIN " + b64("\x00alice\x00right") + "\r\n")
	p.want("502 5.5.1")
	p.say("MAIL FROM:<a@x.example> AUTH=<>\r\n")
	p.want("555 5.5.4")
}

// TestAuth_Budget: the third failed login ends the connection, whatever comes between.
func TestAuth_Budget(t *testing.T) {
	r, said := startForUsers(t)
	p := r.dial()
	p.secure()
	wrong := "AUTH PLAIN " + b64("\x00alice\x00wrong") + "\r\n"
	p.say(wrong)
	p.want("535")
	p.say("NOOP\r\n" + wrong)
	p.want("250")
	p.want("535")
	p.say(wrong + "AUTH PLAIN " + b64("\x00alice\x00right") + "\r\n")
	p.want("535")
	p.want("421 4.7.0 Too many errors")
	p.want("")
	if !slices.Equal(*said, []string{"alice wrong", "alice wrong", "alice wrong"}) {
		t.Errorf("compared %q", *said)
	}
}

// TestAuth_Lowered: a client that another host names has not logged in, although that host has.
func TestAuth_Lowered(t *testing.T) {
	r, _ := startForUsers(t, func(c *Config) { c.Xclient = loopback })
	p := r.dial()
	p.secure()
	p.say("AUTH PLAIN " + b64("\x00alice\x00right") + "\r\n")
	p.want("235")
	p.say("XCLIENT ADDR=192.0.2.7 LOGIN=alice\r\n")
	p.want("220")
	p.say("EHLO d.example\r\nMAIL FROM:<a@x.example>\r\n")
	p.want("250 ")
	p.want("530 5.7.0")
}

// TestAuth_Parameter: for whom a user says to send is read and not believed.
func TestAuth_Parameter(t *testing.T) {
	r, _ := startForUsers(t)
	p := r.dial()
	p.secure()
	p.say("AUTH PLAIN " + b64("\x00alice\x00right") + "\r\n")
	p.want("235")
	p.say("MAIL FROM:<a@x.example> AUTH=boss@x.example AUTH=<>\r\n")
	p.want("501 5.5.4")
	p.say("MAIL FROM:<a@x.example> AUTH=boss+2B@x.example\r\n")
	p.want("250")
	p.say("AUTH PLAIN " + b64("\x00alice\x00right") + "\r\n")
	p.want("503 5.5.1 AUTH inside")
}

// FuzzLogin reads arbitrary responses: what is taken has neither NUL nor more octets than a password may have.
func FuzzLogin(f *testing.F) {
	for _, s := range []string{"=", "*", "", "AGFsaWNlAHJpZ2h0", "YWxpY2U=", "AGE=", "AAAA", "!"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if s, ok := decodeCredential(text); ok && (!isCredential(s) || len(s) > maxCredential) {
			t.Errorf("%q: %q", text, s)
		}
		if user, password, ok := parsePlain(text); ok {
			if !isCredential(user) || !isCredential(password) {
				t.Errorf("%q: %q, %q", text, user, password)
			}
		}
	})
}
