package node

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/activity"
)

// mailed writes a row to the log of a node, as it has addresses.
func (b *bench) mailed(from, to string, status activity.Status, spf string) {
	log := b.activity.Log
	from, _ = log.Hashed(from)
	to, _ = log.Hashed(to)
	log.Add(&activity.Row{
		At: time.Now(), From: from, To: to, Status: status, Action: activity.ActionOf(status, false),
		Client: "198.51.100.1", Judgement: activity.Judgement{SPF: spf},
	})
}

// replayed replays a wish of the owner "a", and returns the groups as text.
func (b *bench) replayed(t *testing.T, text string) (*Replay, string) {
	t.Helper()
	answer, err := shown{b.Node}.replay(t.Context(), account.TokenFile(), account.Wish{Owner: "a", Text: text}, "7d")
	if err != nil {
		t.Fatal(err)
	}
	r := answer.(*Replay)
	var groups []string
	for _, g := range r.Groups {
		groups = append(groups, fmt.Sprintf("%d %s: %s -> %s", g.Messages, g.To, g.Before, g.After))
	}
	return r, strings.Join(groups, "\n")
}

// TestReplay: the mail of the log is asked of the rules in force and of those of a wish, and what differs is told with
// its number. Nothing changes.
func TestReplay(t *testing.T) {
	b := startNode(t, fmt.Sprintf("state: %q\nactivity: {}\n", t.TempDir()), nil)
	b.make(t, "old@made.example", "drop")
	hop := "smtp://" + b.dest.Addr()
	for range 3 {
		b.mailed("alice@sender.example", "info@example.com", activity.Delivered, "pass")
	}
	b.mailed("<>", "Info@example.com", activity.Delivered, "none")
	b.mailed("alice@sender.example", "other@example.com", activity.Rejected, "fail")
	b.mailed("alice@sender.example", "new@made.example", activity.Rejected, "fail")
	b.mailed("alice@sender.example", "new@made.example", activity.Rejected, "")
	b.mailed("alice@sender.example", "x@foreign.example", activity.Rejected, "")
	b.mailed("", "", activity.Rejected, "")
	text := b.Node.rules.apiText()
	r, groups := b.replayed(t, "info@example.com if from=@sender.example bob@elsewhere.example\n"+
		"new@made.example if spf=pass,fail drop\nx@wished.example drop\n")
	want := []string{
		"3 info@example.com: to info@example.com by " + hop + " -> to bob@elsewhere.example",
		"1 new@made.example: 550 5.1.1 No such user here -> depends on SPF, which was not looked up",
		"1 new@made.example: 550 5.1.1 No such user here -> to nowhere (drop)",
	}
	if got := strings.Split(groups, "\n"); !slices.Equal(got, want) {
		t.Errorf("groups:\n%s", groups)
	}
	if r.Messages != 7 || r.Differ != 5 || r.Same != 2 || r.Unknown != 0 || b.Node.rules.apiText() != text {
		t.Errorf("%+v", r)
	}
	if r, _ := b.replayed(t, ""); r.Differ != 0 {
		t.Errorf("an empty wish: %+v", r)
	}
	if _, err := (shown{b.Node}).replay(t.Context(), account.Principal{Role: account.Owner,
		Domains: []string{"example.com"}}, account.Wish{Owner: "a"}, ""); err == nil {
		t.Error("an owner sees where others' rules lead")
	}
}

// TestReplay_Groups: what strangers made the log hold does not fill the memory.
func TestReplay_Groups(t *testing.T) {
	r := replayer{groups: map[Differing]*Differing{}}
	for n := range 3 * maxGroups {
		r.count(Differing{To: fmt.Sprint(n)}, &activity.Row{}, false)
	}
	if got := r.result(); len(got.Groups) != maxGroups || got.More != 2*maxGroups {
		t.Errorf("%d groups, %d more", len(got.Groups), got.More)
	}
}

// TestReplay_Hashed: where the log has hashes, mail to an address that a changed rule names is compared, and of the
// rest it is said why it is not.
func TestReplay_Hashed(t *testing.T) {
	b := startNode(t, fmt.Sprintf("state: %q\nlog: {addresses: hash}\nactivity: {}\n", t.TempDir()), nil)
	b.mailed("alice@sender.example", "info@example.com", activity.Delivered, "pass")
	b.mailed("alice@sender.example", "other@example.com", activity.Delivered, "pass")
	r, groups := b.replayed(t, "Info@example.com drop\n")
	if !strings.HasPrefix(groups, "1 info@example.com: to ") || !strings.HasSuffix(groups, " -> to nowhere (drop)") {
		t.Errorf("groups:\n%s", groups)
	}
	if r.Messages != 2 || r.Unknown != 1 || len(r.Notes) == 0 || !strings.Contains(strings.Join(r.Notes, "\n"),
		"log.addresses: hash") {
		t.Errorf("%+v", r)
	}
}
