package store

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// wrote has an attempt to deliver the nth message end with a 250, and reports whether Redis has all of it.
func wrote(t *testing.T, s *Store, n int) bool {
	t.Helper()
	keys := []mail.LedgerKeys{{Message: fmt.Sprint("message ", n), Recipients: [][]string{{"recipient"}}}}
	v := mail.LedgerEvent{
		Kind: mail.LedgerClaimed, Holder: mail.TraceID{1}, Now: time.Now().UnixMilli(), Lease: 30_000, Keep: 60_000,
	}
	_, degraded := s.Ledger(t.Context(), keys, v)
	v.Kind, v.Reply = mail.LedgerTook, mail.NewReply(250, 2, 0, "")
	_, again := s.Ledger(t.Context(), keys, v)
	return !degraded && !again
}

// called returns how often a server was told a command.
func called(s *server, command string) (times string) {
	_, rest, _ := strings.Cut(s.do("INFO", "commandstats"), "cmdstat_"+command+":calls=")
	times, _, _ = strings.Cut(rest, ",")
	return times
}

// TestWait_ReplicaHasIt asks a replica what it has right after the master has answered.
func TestWait_ReplicaHasIt(t *testing.T) {
	master := newServer(t)
	host, port, err := net.SplitHostPort(master.addr)
	if err != nil {
		t.Fatal(err)
	}
	replica := newServer(t, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	until(t, func() bool { return strings.Contains(replica.do("INFO", "replication"), "master_link_status:up") })
	s := open(t, Config{URL: "redis://" + master.addr, Timeout: slow, Wait: 1})

	const messages = 50
	for n := range messages {
		if !wrote(t, s, n) {
			t.Fatal("redis did not answer")
		}
	}
	master.kill()
	if got := replica.do("DBSIZE"); got != fmt.Sprint(messages) {
		t.Errorf("of %d messages the replica has %s", messages, got)
	}
	if st := s.Stats(); st.Unreplicated != 0 || st.Trips != 2*messages || st.Reloads != 1 {
		t.Errorf("%+v", st)
	}
}

// TestWait_WithoutReplicas has no replica, which is counted and holds nothing back once it is known.
func TestWait_WithoutReplicas(t *testing.T) {
	master := newServer(t)
	t.Parallel() // it mostly waits
	s := open(t, Config{
		URL: "redis://" + master.addr, Timeout: 3 * time.Second, Wait: 1, tune: tuning{pause: time.Hour},
	})
	for n := range 5 {
		if !wrote(t, s, n) {
			t.Fatal("redis did not answer")
		}
	}
	if st := s.Stats(); st.Unreplicated != 10 || st.Fallbacks != 0 || st.Down {
		t.Errorf("%+v", st)
	}
	if got := called(master, "wait"); got != fmt.Sprint(breakerFailures+1) { // and once beside a script that was new
		t.Errorf("redis was told to wait %s times", got)
	}
}

// TestWait_NotWanted waits for nothing.
func TestWait_NotWanted(t *testing.T) {
	master := newServer(t)
	s := open(t, Config{URL: "redis://" + master.addr, Timeout: slow})
	if !wrote(t, s, 0) || called(master, "wait") != "" || s.Stats().Unreplicated != 0 {
		t.Errorf("waited %q times, %+v", called(master, "wait"), s.Stats())
	}
}

// TestLocal_LedgerKeepsNothingThatWasRead has messages end as most do: taken, and the answer provably read.
func TestLocal_LedgerKeepsNothingThatWasRead(t *testing.T) {
	s := open(t, Config{Transact: func(all [][]mail.LedgerEntry, v mail.LedgerEvent) []mail.LedgerEntry {
		found := []mail.LedgerEntry{all[0][0]}
		all[0][0] = mail.LedgerEntry{Phase: mail.LedgerDone, Holder: v.Holder}
		if v.Kind == mail.LedgerRead {
			all[0][0] = mail.LedgerEntry{}
		}
		return found
	}})
	for n := range 100 {
		wrote(t, s, n)
	}
	if st := s.Stats(); st.Entries != 100 {
		t.Fatalf("%d entries of 100 messages", st.Entries)
	}
	for n := range 100 {
		keys := []mail.LedgerKeys{{Message: fmt.Sprint("message ", n), Recipients: [][]string{{"recipient"}}}}
		s.Ledger(t.Context(), keys, mail.LedgerEvent{
			Kind: mail.LedgerRead, Holder: mail.TraceID{1}, Now: time.Now().UnixMilli(),
		})
	}
	if st := s.Stats(); st.Entries != 0 || st.Evicted != 0 {
		t.Errorf("%d entries are left, %d were evicted", st.Entries, st.Evicted)
	}
}

// TestWait_Refused has a Redis that will not wait: its user may not, or what stands in front of it does not know the
// command. What was written is written.
func TestWait_Refused(t *testing.T) {
	master := newServer(t)
	if got := master.do("ACL", "SETUSER", "default", "-wait"); got != "OK" {
		t.Fatal(got)
	}
	s := open(t, Config{URL: "redis://" + master.addr, Timeout: slow, Wait: 1, tune: tuning{pause: time.Hour}})
	for n := range 5 {
		if !wrote(t, s, n) {
			t.Fatal("redis did not answer")
		}
	}
	if st := s.Stats(); st.Unreplicated != 10 || st.Fallbacks != 0 || st.Failures != 0 || st.Down {
		t.Errorf("%+v", st)
	}
}
