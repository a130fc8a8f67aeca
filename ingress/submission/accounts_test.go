package submission

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

// A counting store counts what is drawn, and forgets nothing.
type counting struct {
	ingresstest.Store
	mu    sync.Mutex
	drawn map[string]int
}

func (s *counting) Rates(_ context.Context, rates []mail.Rate) (results []mail.RateResult, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drawn == nil {
		s.drawn = make(map[string]int)
	}
	for _, r := range rates {
		name := r.Group + " " + r.Client.String() + " " + r.Name
		allowed := s.drawn[name] < r.Count
		if !r.Peek && (allowed || r.Happened) {
			s.drawn[name]++
		}
		results = append(results, mail.RateResult{Allowed: allowed, RetryAfter: time.Minute})
	}
	return results, nil
}

// cheap are hashes that cost next to nothing, of the password right.
var cheap = sync.OnceValue(func() string {
	b, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	if err != nil {
		panic(err)
	}
	return string(b)
})

func accountsOf(t *testing.T, text string, change func(*Config)) (*Accounts, *counting) {
	t.Helper()
	users, err := ParseUsers("users", text)
	if err != nil {
		t.Fatal(err)
	}
	store := new(counting)
	cfg := Config{Store: store, Users: users, Key: []byte("0123456789abcdef")}
	if change != nil {
		change(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a, store
}

func replyOf(err error) int {
	if err == nil {
		return 0
	}
	return int(mail.ReplyFor(err).Code)
}

var home = netip.MustParseAddr("192.0.2.7")

// TestHash: what Hash makes is read again and stands for its password alone.
func TestHash(t *testing.T) {
	for _, text := range []string{Hash("correct horse"), Hash("correct horse")} {
		h, err := parseHash(text)
		if err != nil || !h.isOf("correct horse") || h.isOf("correct horsf") || h.isOf("") {
			t.Errorf("%s: %v", text, err)
		}
	}
	h, err := parseHash(cheap())
	if err != nil || !h.isOf("right") || h.isOf("wrong") {
		t.Errorf("bcrypt: %v", err)
	}
}

// TestParseUsers_Mistakes: each line that is wrong is named, and none is repeated.
func TestParseUsers_Mistakes(t *testing.T) {
	good := Hash("a secret")
	dear := strings.Replace(good, "m=19456", "m=1048576", 1)
	for _, c := range []struct{ name, text, want string }{
		{"no user", "# none\n\n", "users:1: has no user"},
		{"no address", "alice " + good + "\n", "users:1: want a name"},
		{"a password in clear", "# x\nalice verysecret alice@example.com\n", "users:2: the second word is no hash"},
		{"a hash of MD5", "alice $1$abc$verysecret a@example.com", "is no hash of argon2id or bcrypt"},
		{"a hash that takes a gigabyte", "alice " + dear + " a@example.com", "costs too much"},
		{"a hash of no memory", "alice " + strings.Replace(good, "m=19456", "m=1", 1) + " a@example.com", "is no hash"},
		{"more parameters", "alice " + strings.Replace(good, "p=1", "p=1,x=2", 1) + " a@x.example", "is no hash"},
		{"bcrypt of hours", "alice $2a$31$" + cheap()[7:] + " a@example.com", "costs too much"},
		{"no domain", "alice " + good + " verysecret", "users:1: word 3 is no address"},
		{"a bad domain", "alice " + good + " @verysecret..x", "word 3 is no address"},
		{"a bad target", "alice " + good + " a@x.example to=verysecret", "word 4 is no address"},
		{
			"the name twice", "alice " + good + " a@x.example\nAlice " + good + " b@x.example",
			"users:2: the name stands twice",
		},
	} {
		_, err := ParseUsers("users", c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "verysecret") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestOwns: what is a user's, by the file and by the rules.
func TestOwns(t *testing.T) {
	a, _ := accountsOf(t, "alice "+cheap()+" alice@example.com @all.example to=alice@home.example "+
		"sales@büro.example\n", nil)
	user := a.User("ALICE")
	route := func(p mail.Path) ([]mail.Route, error) {
		switch p.Local {
		case "gone":
			return nil, mail.Refuse(550, 1, 1, "No such user", "", nil)
		case "wait":
			return nil, mail.Refuse(451, 3, 0, "No rules yet", "", nil)
		case "desk":
			return []mail.Route{{Forwards: []mail.Path{ingresstest.Path("bob@home.example"),
				ingresstest.Path("Alice@HOME.example")}}}, nil
		}
		return []mail.Route{{Forwards: []mail.Path{ingresstest.Path("bob@home.example")}}}, nil
	}
	for address, want := range map[string]int{
		"alice@example.com": 0, "Alice@Example.COM": 0, "any@all.example": 0, "sales@xn--bro-hoa.example": 0,
		"sales@büro.example": 0,
		"desk@example.com":   0, // the rules send it to her
		"bob@example.com":    550, "any@sub.all.example": 550, "alice@home.example": 550, "gone@all.example": 550,
		"wait@all.example": 451, "x@[192.0.2.1]": 550,
	} {
		if got := replyOf(user.Owns(ingresstest.Path(address), route)); got != want {
			t.Errorf("%s: %d, want %d", address, got, want)
		}
	}
	if a.User("bob") != nil {
		t.Error("there is a bob")
	}
}

// TestLogin_Unknown: a name of no user costs the work of a user's hash, the same at each try, and is replied alike.
func TestLogin_Unknown(t *testing.T) {
	a, _ := accountsOf(t, "alice "+cheap()+" a@x.example\nbob "+Hash("a secret")+" b@x.example\n", nil)
	users := a.users.Load()
	kinds := make(map[bool]int)
	for i := range 64 {
		name := "nemo" + string(rune('a'+i%26)) + strings.Repeat("x", i/26)
		user, first := users.find(name)
		_, second := users.find(name)
		if user != nil || first == nil || first != second {
			t.Fatalf("%s: %v %p %p", name, user, first, second)
		}
		kinds[first.sum == nil]++
	}
	if kinds[true] == 0 || kinds[false] == 0 {
		t.Errorf("all names of no user are compared with one kind of hash: %v", kinds)
	}
	wrong := a.Login(t.Context(), home, "alice", "wrong")
	unknown := a.Login(t.Context(), home, "nemo", "right")
	if wrong == nil || unknown == nil || wrong.Error() != unknown.Error() || replyOf(unknown) != 535 {
		t.Errorf("%v, %v", wrong, unknown)
	}
}

// TestLogin_Failed: after ten failed logins of an address nothing is compared any more, the right password neither, and
// after forty of its network for all of it; elsewhere the user logs in.
func TestLogin_Failed(t *testing.T) {
	results := make(map[Result]int)
	a, _ := accountsOf(t, "alice "+cheap()+" a@x.example\n", func(c *Config) {
		c.Logins = func(r Result) { results[r]++ }
	})
	login := func(addr, password string) int {
		return replyOf(a.Login(t.Context(), netip.MustParseAddr(addr), "alice", password))
	}
	if got := login("192.0.2.7", "right"); got != 0 {
		t.Fatal(got)
	}
	for range 10 {
		if got := login("192.0.2.7", "wrong"); got != 535 {
			t.Fatal(got)
		}
	}
	if got := login("192.0.2.7", "right"); got != 454 {
		t.Errorf("the eleventh: %d", got)
	}
	if got := login("192.0.2.8", "right"); got != 0 {
		t.Errorf("a neighbour: %d", got)
	}
	for i := range 30 {
		login(netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}).String(), "wrong")
	}
	if got := login("192.0.2.8", "right"); got != 454 {
		t.Errorf("a neighbour after forty: %d", got)
	}
	if got := login("198.51.100.1", "right"); got != 0 {
		t.Errorf("another network: %d", got)
	}
	if results[LoginDone] != 3 || results[LoginFailed] != 40 || results[LoginLate] != 2 {
		t.Errorf("counted %v", results)
	}
}

// TestLogin_Busy: while all workers are at work, clients wait up to a bound, and one of a network of which a user
// logged in beyond it. None waits longer than its context.
func TestLogin_Busy(t *testing.T) {
	a, _ := accountsOf(t, "alice "+cheap()+" a@x.example\n", nil)
	if err := a.Login(t.Context(), home, "alice", "right"); err != nil {
		t.Fatal(err)
	}
	for range cap(a.workers) {
		a.workers <- struct{}{}
	}
	a.waiting.Store(maxWaiting)
	if got := replyOf(a.Login(t.Context(), netip.MustParseAddr("198.51.100.1"), "alice", "right")); got != 454 {
		t.Errorf("one too many: %d", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.Login(ctx, home, "alice", "right") }()
	for a.waiting.Load() != maxWaiting+1 {
		runtime.Gosched()
	}
	cancel()
	if got := replyOf(<-done); got != 454 {
		t.Errorf("one whose connection ends: %d", got)
	}
	go func() { done <- a.Login(t.Context(), home, "alice", "right") }()
	<-a.workers
	if err := <-done; err != nil || a.waiting.Load() != maxWaiting {
		t.Errorf("%v, %d wait", err, a.waiting.Load())
	}
}

// TestLogin_Token: the holder of a token logs in by its id and sends as its domains, until the token is no more. A
// wrong secret is replied to and counted as a wrong password.
func TestLogin_Token(t *testing.T) {
	domains := []string{"example.com", "Büro.example"}
	a, store := accountsOf(t, "alice "+cheap()+" a@x.example\n", func(c *Config) {
		c.Token = func(id, secret string) ([]string, bool) {
			if id != "0123" {
				return nil, false
			}
			return domains, secret == "secret"
		}
	})
	login := func(name, password string) int { return replyOf(a.Login(t.Context(), home, name, password)) }
	for _, c := range []struct {
		name, password string
		want           int
	}{
		{"0123", "secret", 0}, {"0123", "", 535}, {"0123", "right", 535}, {"4567", "secret", 535},
		{"alice", "right", 0},
	} {
		if got := login(c.name, c.password); got != c.want {
			t.Errorf("%s with %q: %d, want %d", c.name, c.password, got, c.want)
		}
	}
	if len(store.drawn) == 0 {
		t.Error("no failure was counted")
	}
	user := a.User("0123")
	route := func(mail.Path) ([]mail.Route, error) { return []mail.Route{{}}, nil }
	for address, want := range map[string]int{
		"any@example.com": 0, "x@xn--bro-hoa.example": 0, "any@sub.example.com": 550, "a@x.example": 550,
	} {
		if got := replyOf(user.Owns(ingresstest.Path(address), route)); got != want {
			t.Errorf("%s: %d, want %d", address, got, want)
		}
	}
	domains = nil
	if a.User("0123") != nil || login("0123", "secret") != 535 {
		t.Error("a token that is no more sends")
	}
}

// TestRecipient: a user sends so much in a time, and another one has rates of his own.
func TestRecipient(t *testing.T) {
	a, store := accountsOf(t, "alice "+cheap()+" a@x.example\nbob "+cheap()+" b@x.example\n", func(c *Config) {
		c.Messages, c.Recipients = rate.Limit{Count: 2, Per: time.Hour}, rate.Limit{Count: 4, Per: time.Hour}
	})
	alice, bob := a.User("alice"), a.User("bob")
	ask := func(u *User, first bool) int {
		return replyOf(a.Recipient(t.Context(), u, ingresstest.Path("x@far.example"), first))
	}
	for i, want := range []int{0, 0, 450} {
		if got := ask(alice, true); got != want {
			t.Errorf("message %d: %d", i, got)
		}
	}
	if got := ask(alice, false); got != 0 {
		t.Errorf("a further recipient: %d", got)
	}
	if got := ask(bob, true); got != 0 {
		t.Errorf("another user: %d", got)
	}
	for name := range store.drawn {
		if strings.Contains(name, "alice") || strings.Contains(name, "bob") {
			t.Errorf("the store reads %s", name)
		}
	}
}

// TestRefused: a recipient that there was not is not tried again by its user for a while; others may, and what was
// refused for another reason is.
func TestRefused(t *testing.T) {
	a, store := accountsOf(t, "alice "+cheap()+" a@x.example\nbob "+cheap()+" b@x.example\n", func(c *Config) {
		c.Suppress = time.Hour
	})
	alice, bob := a.User("alice"), a.User("bob")
	gone, full := ingresstest.Path("gone@far.example"), ingresstest.Path("full@far.example")
	a.Refused(t.Context(), alice, gone, mail.NewReply(550, 1, 1, "No such mailbox"))
	a.Refused(t.Context(), alice, full, mail.NewReply(552, 2, 2, "Full"))
	a.Refused(t.Context(), alice, full, mail.NewReply(450, 1, 1, "Not now"))
	for _, c := range []struct {
		user *User
		to   string
		want int
	}{
		{alice, "gone@far.example", 550}, {alice, "GONE@far.example", 550}, {alice, "full@far.example", 0},
		{bob, "gone@far.example", 0},
	} {
		if got := replyOf(a.Recipient(t.Context(), c.user, ingresstest.Path(c.to), true)); got != c.want {
			t.Errorf("%s to %s: %d, want %d", c.user.Name, c.to, got, c.want)
		}
	}
	marks := store.Marks()
	for key, ttl := range marks {
		if ttl != time.Hour || strings.Contains(key, "gone") {
			t.Errorf("mark %s for %s", key, ttl)
		}
	}
	if len(marks) != 1 {
		t.Errorf("%d marks", len(marks))
	}
}

// TestAccounts_Apart: users of one name in two files share neither rates nor what there was not. One who stands in both
// of them does.
func TestAccounts_Apart(t *testing.T) {
	limit := func(c *Config) { c.Messages = rate.Limit{Count: 1, Per: time.Hour} }
	a, store := accountsOf(t, "alice "+cheap()+" @x.example a@z.example\n", limit)
	same := func(c *Config) { limit(c); c.Store = store }
	other, _ := accountsOf(t, "alice "+cheap()+" @y.example\n", same)
	again, _ := accountsOf(t, "Alice "+cheap()+" a@z.example @X.example\n", same)
	gone, to := ingresstest.Path("gone@far.example"), ingresstest.Path("x@far.example")
	if got := replyOf(a.Recipient(t.Context(), a.User("alice"), to, true)); got != 0 {
		t.Fatal(got)
	}
	a.Refused(t.Context(), a.User("alice"), gone, mail.NewReply(550, 1, 1, "No such mailbox"))
	for _, c := range []struct {
		name     string
		accounts *Accounts
		first    bool
		to       mail.Path
		want     int
	}{
		{"the other one, to who there was not", other, false, gone, 0}, {"the other one", other, true, to, 0},
		{"the same one, to who there was not", again, false, gone, 550}, {"the same one", again, true, to, 450},
	} {
		if got := replyOf(c.accounts.Recipient(t.Context(), c.accounts.User("alice"), c.to, c.first)); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestConfig_Validate names the field that cannot be kept.
func TestConfig_Validate(t *testing.T) {
	for field, cfg := range map[string]Config{
		"key": {}, "messages": {Key: make([]byte, 16), Messages: rate.Limit{Count: -1}},
		"recipients": {Key: make([]byte, 16), Recipients: rate.Limit{Count: 1}},
	} {
		wrong, ok := errors.AsType[*mail.FieldError](cfg.Validate())
		if !ok || wrong.Field != field {
			t.Errorf("%s: %v", field, wrong)
		}
	}
}
