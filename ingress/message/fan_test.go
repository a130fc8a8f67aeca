package message

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A fakeMember is a transaction that notes what it is told.
type fakeMember struct {
	mail.Transaction
	takes     time.Duration // of each call that waits
	fails     string        // the call that does
	commits   int
	aborts    int
	stall     time.Duration
	attempt   *mail.Attempt
	octets    int
	text      string
	afterEach func()
}

var errFails = mail.Refuse(452, 2, 2, "Full", "upstream", nil)

func (f *fakeMember) call(name string) error {
	<-time.After(f.takes)
	if f.fails == name {
		return errFails
	}
	return nil
}

func (f *fakeMember) Stream(context.Context) error { return f.call("Stream") }

func (f *fakeMember) Data(ctx context.Context, _ mail.Form) error {
	f.stall = mail.StallOf(ctx)
	return f.call("Data")
}

func (f *fakeMember) Write(o mail.Octets) error {
	f.octets += o.Len()
	f.text += string(o.AppendAs(nil, o.Form))
	if f.afterEach != nil {
		f.afterEach()
	}
	if f.fails == "Write" {
		return errFails
	}
	return nil
}

func (f *fakeMember) Commit(ctx context.Context, o mail.Octets) []mail.Outcome {
	f.attempt = mail.AttemptOf(ctx)
	f.commits++
	f.text += string(o.AppendAs(nil, o.Form))
	if f.call("Commit") != nil {
		panic("this one panics")
	}
	return []mail.Outcome{
		{Reply: mail.NewReply(250, 0, 0, fmt.Sprint(f.takes, " first"))},
		{Reply: mail.NewReply(250, 0, 0, fmt.Sprint(f.takes, " second"))},
	}
}

func (f *fakeMember) Abort() { f.aborts++ }

func fanOf(members ...*fakeMember) *Fan {
	var list []Member
	for i, m := range members {
		list = append(list, Member{Tx: m, Own: []int{i, i + len(members)}})
	}
	return NewFan(list)
}

func piece(text string) mail.Octets { return mail.Octets{Segments: net.Buffers{[]byte(text)}} }

// TestFan_SlowestSetsThePace: members are asked at a time, and each outcome finds its recipient.
func TestFan_SlowestSetsThePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := []*fakeMember{{takes: time.Second}, {takes: 3 * time.Second}, {takes: 2 * time.Second}}
		f := fanOf(members...)
		begun := time.Now()
		if err := errors.Join(f.Stream(t.Context()), f.Data(t.Context(), mail.Stuffed)); err != nil {
			t.Fatal(err)
		}
		a := &mail.Attempt{Keys: []mail.LedgerKeys{{Message: "m", Recipients: [][]string{
			{"0"}, {"1"}, {"2"}, {"3"}, {"4"}, {"5"},
		}}}}
		var got []string
		for _, o := range f.Commit(mail.WithAttempt(t.Context(), a), piece("whole")) {
			got = append(got, o.Reply.Text)
		}
		if took := time.Since(begun); took != 9*time.Second {
			t.Errorf("three calls of 3 s take %s", took)
		}
		if want := "[1s first 3s first 2s first 1s second 3s second 2s second]"; fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
		for i, m := range members {
			own := m.attempt.Keys[0].Recipients
			if m.stall != blockedFor || m.text != "whole" || m.aborts != 0 ||
				fmt.Sprint(own) != fmt.Sprintf("[[%d] [%d]]", i, i+3) {
				t.Errorf("member %d: %+v, asks for %v", i, m, own)
			}
		}
	})
}

// TestFan_FailsAlone: a member that fails is aborted once, and its error is the outcome of its recipients.
func TestFan_FailsAlone(t *testing.T) {
	for _, call := range []string{"Stream", "Data", "Write"} {
		members := []*fakeMember{{}, {fails: call}}
		f := fanOf(members...)
		if err := errors.Join(f.Stream(t.Context()), f.Data(t.Context(), mail.Stuffed),
			f.Write(piece("a")), f.Write(piece("b"))); err != nil {
			t.Errorf("%s: %v", call, err)
		}
		out := f.Commit(t.Context(), piece("c"))
		var codes []int
		for _, o := range out {
			codes = append(codes, o.Reply.Code)
		}
		if fmt.Sprint(codes) != "[250 452 250 452]" {
			t.Errorf("%s: %v", call, out)
		}
		f.Abort()
		if m := members[1]; m.aborts != 1 || m.commits != 0 || members[0].aborts != 0 || members[0].text != "abc" {
			t.Errorf("%s: %+v, %+v", call, members[0], m)
		}
		f = fanOf(&fakeMember{fails: call}, &fakeMember{fails: call})
		err := f.Stream(t.Context())
		if err == nil {
			err = f.Data(t.Context(), mail.Stuffed)
		}
		if err == nil {
			err = f.Write(piece("a"))
		}
		if !errors.Is(err, errNoMember) {
			t.Errorf("%s: without a member: %v", call, err)
		}
	}
}

// TestFan_Skew: no member is further than one piece ahead of another.
func TestFan_Skew(t *testing.T) {
	const size = 64 << 10
	members := []*fakeMember{{}, {}, {}}
	most := 0
	for _, m := range members {
		m.afterEach = func() {
			for _, a := range members {
				for _, b := range members {
					most = max(most, a.octets-b.octets)
				}
			}
		}
	}
	f := fanOf(members...)
	for range 20 {
		if err := f.Write(piece(strings.Repeat("x", size))); err != nil {
			t.Fatal(err)
		}
	}
	if most != size {
		t.Errorf("the greatest skew is %d octets, want %d", most, size)
	}
}

// TestFan_Panic: a panic of a member is that of the caller, once all have ended.
func TestFan_Panic(t *testing.T) {
	for _, at := range []int{0, 1} {
		members := []*fakeMember{{}, {}}
		members[at].fails = "Commit"
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic is lost")
				}
			}()
			fanOf(members...).Commit(t.Context(), piece("x"))
		}()
		if members[1-at].commits != 1 {
			t.Error("the other member was not awaited")
		}
	}
}
