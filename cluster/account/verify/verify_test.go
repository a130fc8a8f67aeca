package verify

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/mail"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/router/leaf/ascii"
	own "github.com/millrace/millrace/router/mail"
)

// A world is a Verifier, and a mailbox that its letters go to.
type world struct {
	*Verifier
	t       *testing.T
	account *account.Account
	log     bytes.Buffer

	mu      sync.Mutex // guards what follows
	letters [][]byte
	code    int
	reply   string
	err     error
	block   bool // a letter waits until it is given up
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, code: 250, reply: "250 2.0.0 Taken"}
	text := ""
	var err error
	w.account, err = account.New(account.Config{
		State: t.TempDir(), ALabels: func(s string) (string, bool) { return ascii.Fold(s), s != "" },
		Rules: account.Rules{
			Text: func() string { return text },
			Change: func(_ context.Context, edit func(string) (string, error)) error {
				next, err := edit(text)
				if err == nil {
					text = next
				}
				return err
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Verifier = New(Config{
		Account: w.account, URL: "https://relay.example", From: own.Path{Local: "postmaster", Domain: "relay.example"},
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Send: func(ctx context.Context, from, to own.Path, message []byte) (int, string, error) {
			w.mu.Lock()
			w.letters = append(w.letters, message)
			code, reply, err, block := w.code, w.reply, w.err, w.block
			w.mu.Unlock()
			if block {
				<-ctx.Done()
				return 0, "", ctx.Err()
			}
			return code, reply, err
		},
	})
	t.Cleanup(w.Close)
	return w
}

// add adds a destination of a principal.
func (w *world) add(p account.Principal, address string) account.Destination {
	w.t.Helper()
	d, err := w.account.AddDestination(w.t.Context(), p, address)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// now returns a destination as it is.
func (w *world) now(d account.Destination) account.Destination {
	w.t.Helper()
	d, err := w.account.Destination(account.TokenFile(), d.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// link matches the link in a letter.
var link = regexp.MustCompile(`https://relay\.example/verify\?token=([0-9A-Za-z_-]+)`)

// token returns the token of the last letter.
func (w *world) token() string {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	m, err := mail.ReadMessage(bytes.NewReader(w.letters[len(w.letters)-1]))
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, m.Body))
	if err != nil {
		w.t.Fatal(err)
	}
	found := link.FindAllSubmatch(text, -1)
	if len(found) != 2 || !bytes.Equal(found[0][1], found[1][1]) { // in both languages
		w.t.Fatalf("the letter is %s", text)
	}
	return string(found[0][1])
}

// TestVerifier_Link: a link verifies its destination once, within a day, and another letter ends it.
func TestVerifier_Link(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := newWorld(t), account.TokenFile()
		defer w.Close()
		d := w.add(p, "box@mailbox.example")
		ask := func() {
			t.Helper()
			if err := w.Ask(t.Context(), p, w.now(d)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		follow := func(token string, want error) {
			t.Helper()
			if err := w.Follow(t.Context(), token); !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("%q: got %v, want %v", token, err, want)
			}
		}
		ask()
		first := w.token()
		follow("", ErrNoLink)
		follow(first+"x", ErrNoLink)
		follow(w.now(d).Link, ErrNoLink) // what is kept opens nothing
		time.Sleep(24 * time.Hour)
		follow(first, ErrNoLink)
		if w.now(d).Verified != nil {
			t.Fatal("it is verified by a link that is over")
		}
		ask()
		second := w.token()
		time.Sleep(24*time.Hour - time.Second)
		ask()
		follow(first, ErrNoLink)
		follow(second, ErrNoLink)
		follow(w.token(), nil)
		if got := w.now(d); got.Verified == nil || got.How != "link" || got.Link != "" {
			t.Errorf("got %+v", got)
		}
		follow(w.token(), ErrNoLink)
		if err := w.Ask(t.Context(), p, w.now(d)); err == nil {
			t.Error("one that is verified is asked again")
		}
	})
}

// TestVerifier_PutOff: a letter that is put off or refused shows the reply, its link is good for nothing, and it is
// sent again when it is asked for, and not before.
func TestVerifier_PutOff(t *testing.T) {
	for _, tt := range []struct {
		name, reply, want string
		code              int
		err               error
	}{
		{"put off", "450 4.2.0 Greylisted", "450 4.2.0 Greylisted", 450, nil},
		{"refused", "550 5.1.1 Unknown\x1b[31m", "550 5.1.1 Unknown?[31m", 550, nil},
		{"cut off", "", "no reply: cut", 0, errors.New("cut")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, p := newWorld(t), account.TokenFile()
				defer w.Close()
				d := w.add(p, "box@mailbox.example")
				w.code, w.reply, w.err = tt.code, tt.reply, tt.err
				if err := w.Ask(t.Context(), p, d); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				if got := w.now(d); got.Failed != tt.want || got.Link != "" || len(w.letters) != 1 {
					t.Errorf("got %+v, %d letters", got, len(w.letters))
				}
				if err := w.Follow(t.Context(), w.token()); !errors.Is(err, ErrNoLink) {
					t.Errorf("got %v", err)
				}
				w.code, w.err = 250, nil
				if err := w.Ask(t.Context(), p, w.now(d)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if got := w.now(d); got.Failed != "" || w.Follow(t.Context(), w.token()) != nil {
					t.Errorf("got %+v", got)
				}
			})
		})
	}
}

// TestVerifier_Bounds: a token has so many letters sent and no more, one destination gets one in a minute, and so many
// are under way at a time.
func TestVerifier_Bounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.Close()
		p := account.Principal{ID: "one", Name: "one", Role: account.Owner, Domains: []string{"example.com"}}
		d := w.add(p, "box@mailbox.example")
		sent := 0
		for range 100 {
			if w.Ask(t.Context(), p, w.now(d)) == nil {
				sent++
			}
			synctest.Wait()
		}
		if sent != 1 {
			t.Errorf("%d letters to one destination", sent)
		}
		sent = 0
		for i := range 100 {
			if w.Ask(t.Context(), p, w.add(p, strings.Repeat("x", i+1)+"@mailbox.example")) == nil {
				sent++
			}
			synctest.Wait()
		}
		if sent >= 20 {
			t.Errorf("%d letters of one token", sent)
		}
		time.Sleep(24 * time.Hour)
		w.block = true
		sent = 0
		for i := range 2 * maxLetters {
			p := account.TokenFile()
			if w.Ask(t.Context(), p, w.add(p, strings.Repeat("y", i+1)+"@x.example")) == nil {
				sent++
			}
		}
		if sent != maxLetters {
			t.Errorf("%d letters under way", sent)
		}
	})
}

// TestVerifier_NoLetter: what is no address and a relay without a page for links say so.
func TestVerifier_NoLetter(t *testing.T) {
	w, p := newWorld(t), account.TokenFile()
	for _, address := range []string{"smtp://192.0.2.1:25", "lmtp+unix:/run/lmtp"} {
		if err := w.Ask(t.Context(), p, w.add(p, address)); err == nil || !strings.Contains(err.Error(), "no letter") {
			t.Errorf("%s: got %v", address, err)
		}
	}
	w.cfg.URL = ""
	err := w.Ask(t.Context(), p, w.add(p, "a@x.example"))
	if err == nil || !strings.Contains(err.Error(), "public.url") {
		t.Errorf("got %v", err)
	}
	if len(w.letters) != 0 {
		t.Errorf("%d letters", len(w.letters))
	}
}

// TestCompose: a letter is a message in ASCII with short lines, says where it comes from, and can be read in both
// languages.
func TestCompose(t *testing.T) {
	from, to := own.Path{Local: "postmaster", Domain: "relay.example"}, own.Path{Local: "a", Domain: "x.example"}
	p := account.Principal{Domains: []string{"example.com", "example.org"}}
	text := compose(from, to, p, "https://relay.example/verify?token=x", time.Unix(1e9, 0))
	for line := range bytes.Lines(text) {
		beyond := bytes.ContainsFunc(line, func(r rune) bool { return r > '~' })
		if !bytes.HasSuffix(line, []byte("\r\n")) || len(line) > 200 || beyond {
			t.Errorf("%q", line)
		}
	}
	m, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"From": "Mail relay <postmaster@relay.example>", "To": "<a@x.example>",
		"Date":           "Sun, 9 Sep 2001 01:46:40 +0000",
		"Auto-Submitted": "auto-generated",
	} {
		if got := m.Header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	body, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, m.Body))
	for _, want := range []string{"example.com, example.org", "a@x.example", "24 hours", "24時間", "token=x"} {
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("no %q in %s", want, body)
		}
	}
}
