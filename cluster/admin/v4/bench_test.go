package v4

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/router/leaf/ascii"
)

// token is that of the configuration.
const token = "0123456789abcdefghijklmnopqrstuvwxyzABCD"

// A world is an API over an Account whose rules no Router checks.
type world struct {
	admin.Surface
	t       *testing.T
	account *account.Account
	text    string   // of the file of rules
	files   []string // patterns of the administrator
	asked   []string // destinations that were sent a letter
	sent    []Outgoing
	result  Sent         // of what is sent
	fast    atomic.Int64 // minutes that the clock goes fast
}

func newWorld(t *testing.T, state string) *world {
	t.Helper()
	w := &world{t: t}
	clash := errors.New("clash")
	at := 0
	rules := account.Rules{
		Text: func() string { return w.text },
		Change: func(_ context.Context, edit func(string) (string, error)) error {
			text, err := edit(w.text)
			if err != nil {
				return err
			}
			at = 0
			for line := range strings.Lines(text) {
				at++
				if pattern, _, _ := strings.Cut(line, " "); slices.Contains(w.files, pattern) {
					return clash
				}
			}
			w.text = text
			return nil
		},
		Faults: func(err error) ([]account.Fault, bool) {
			return []account.Fault{{Line: at, Reason: "the same pattern stands at routes.txt:1"}}, errors.Is(err, clash)
		},
	}
	var err error
	w.account, err = account.New(account.Config{
		State: state, Rules: rules, Token: []byte(token),
		Now:     func() time.Time { return time.Now().Add(time.Duration(w.fast.Load()) * time.Minute) },
		ALabels: func(s string) (string, bool) { return ascii.Fold(s), s != "" },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Surface = New(Config{
		Account: w.account,
		Hosted:  func() []string { return []string{"example.com", "example.org"} },
		Records: func(domain string) ([]Record, error) {
			ten := 10
			return []Record{{Type: "MX", Name: domain, Content: "relay.example", Priority: &ten, TTL: 300}}, nil
		},
		Hook: func(p account.Principal, name, zone string) bool {
			return p.Unlimited() && name == "ours" || name == "orders" && zone == "example.com"
		},
		Ask: func(_ context.Context, _ account.Principal, d account.Destination) error {
			if strings.HasPrefix(d.Address, "smtp:") {
				return &account.Error{Kind: account.Refused, Code: account.CodeRefused, Message: "no letter"}
			}
			w.asked = append(w.asked, d.Address)
			return nil
		},
		Sender: Sender{Most: 1 << 20, Send: func(_ context.Context, _ account.Principal, m Outgoing) (Sent, error) {
			w.sent = append(w.sent, m)
			return w.result, nil
		}},
	})
	return w
}

// as sends a request with a token, and returns the status and the body of the answer.
func (w *world) as(token, method, path, body string) (int, string) {
	w.t.Helper()
	out := w.request(token, method, path, body)
	return out.Code, strings.TrimSpace(out.Body.String())
}

// request is as with the whole answer.
func (w *world) request(token, method, path, body string) *httptest.ResponseRecorder {
	w.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, Prefix+path, reader)
	out := httptest.NewRecorder()
	p, err := w.account.Authenticate(token, netip.MustParseAddr("127.0.0.1"))
	var why *account.Error
	if errors.As(err, &why) {
		w.Refuse(out, r, admin.StatusOf(why.Kind), why)
	} else {
		w.Handler.ServeHTTP(out, r.WithContext(account.With(r.Context(), p)))
	}
	if got := out.Header().Get("Content-Type"); got != "application/json" {
		w.t.Errorf("%s %s: content type %q", method, path, got)
	}
	if out.Code == http.StatusConflict {
		w.t.Errorf("%s %s: 409, which clients repeat", method, path)
	}
	if out.Code >= 400 && out.Code < 500 && out.Header().Get("X-Should-Retry") != "false" {
		w.t.Errorf("%s %s: %d, which clients may repeat", method, path, out.Code)
	}
	return out
}

// do sends a request with the token of the configuration.
func (w *world) do(method, path, body string) (int, string) {
	w.t.Helper()
	return w.as(token, method, path, body)
}

// A reply is an envelope as clients read it.
type reply struct {
	Success  bool
	Errors   []message
	Messages []message
	Result   json.RawMessage
	Info     *resultInfo `json:"result_info"`
}

// ok sends a request that is to succeed, and reads the result into v.
func (w *world) ok(method, path, body string, v any) reply {
	w.t.Helper()
	status, text := w.do(method, path, body)
	var r reply
	if err := json.Unmarshal([]byte(text), &r); err != nil || status != 200 || !r.Success || r.Errors == nil {
		w.t.Fatalf("%s %s %s: got %d %s", method, path, body, status, text)
	}
	if v != nil {
		if err := json.Unmarshal(r.Result, v); err != nil {
			w.t.Fatal(err, text)
		}
	}
	return r
}

// fails sends a request that is to fail with a status and a code.
func (w *world) fails(method, path, body string, status, code int) {
	w.t.Helper()
	got, text := w.do(method, path, body)
	var r reply
	if err := json.Unmarshal([]byte(text), &r); err != nil || got != status || r.Success || len(r.Errors) != 1 ||
		r.Errors[0].Code != code || string(r.Result) != "null" || r.Info != nil {
		w.t.Errorf("%s %s %s: got %d %s, want %d with code %d", method, path, body, got, text, status, code)
	}
}

var (
	zonePath    = "/zones/" + zoneID("example.com")
	routingPath = zonePath + "/email/routing"
	rulesPath   = routingPath + "/rules"
	accountPath = "/accounts/" + theAccount.ID
	addressPath = accountPath + "/email/routing/addresses"
)

// literalRule returns the body of a rule.
func literalRule(to, actions string) string {
	return fmt.Sprintf(`{"matchers":[{"type":"literal","field":"to","value":%q}],"actions":[%s]}`, to, actions)
}
