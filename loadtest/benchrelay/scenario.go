package main

import "fmt"

// recipient is behind the number of each message.
const recipient = "sink@bench.example"

// A scenario is one way of using smtp-source.
type scenario struct {
	Name     string
	Sessions int
	Octets   int
	Reuse    bool
	Policy   bool    // the race of those that judge
	Messages int     `json:",omitempty"` // for each X; 0: as many as X does in about a second
	Target   float64 `json:",omitempty"` // CPU as a multiple of HAProxy's; 0: none
}

// beside is what is measured beside HAProxy alone.
var beside = []scenario{
	{Name: "4 KiB, 20 sessions, reuse", Sessions: 20, Messages: 20000, Octets: 4096, Reuse: true, Target: 1.5},
	{Name: "4 KiB, 20 sessions, one message each", Sessions: 20, Messages: 8000, Octets: 4096, Target: 1.3},
	{Name: "64 KiB, 20 sessions, reuse", Sessions: 20, Messages: 6000, Octets: 64 << 10, Reuse: true, Target: 1.6},
	{Name: "1 MiB, 20 sessions, reuse", Sessions: 20, Messages: 600, Octets: 1 << 20, Reuse: true, Target: 1.3},
	{Name: "4 KiB, 1 session, reuse", Sessions: 1, Messages: 4000, Octets: 4096, Reuse: true},
}

// cells are all ways of the race of the peers, or few of them.
func cells(quick bool) []scenario {
	sizes, sessions := []int{4 << 10, 64 << 10, 1 << 20}, []int{1, 20, 100}
	if quick {
		sizes, sessions = sizes[:2], sessions[1:2]
	}
	var all []scenario
	for _, policy := range []bool{false, true} {
		if policy {
			sessions = []int{20}
		}
		for _, octets := range sizes {
			for _, n := range sessions {
				for _, reuse := range []bool{false, true} {
					all = append(all, cell(octets, n, reuse, policy))
				}
			}
		}
	}
	return all
}

func cell(octets, sessions int, reuse, policy bool) scenario {
	s := scenario{Octets: octets, Sessions: sessions, Reuse: reuse, Policy: policy}
	s.Name = size(octets) + ", " + counted(sessions, "session")
	if reuse {
		s.Name += ", reuse"
	} else {
		s.Name += ", single"
	}
	if policy {
		s.Name += ", full policy"
	}
	return s
}

func size(octets int) string {
	if octets >= 1<<20 {
		return fmt.Sprintf("%d MiB", octets>>20)
	}
	return fmt.Sprintf("%d KiB", octets>>10)
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// A pace is about how many messages a second something relays.
type pace uint8

// The paces.
const (
	swift   pace = iota // hands octets on
	slow                // has a queue, or a process for each session
	slowest             // takes a message apart, or has a process for each message
	halting             // waits for others before it goes on
)

// worth is about a second's worth of messages for each pace, by size.
var worth = map[int][4]int{4 << 10: {2400, 300, 160, 24}, 64 << 10: {1400, 240, 100, 24}, 1 << 20: {160, 60, 16, 16}}

// messages are what something of that pace is given in a scenario: no less than one for each session, and for one
// session as many as its turns allow.
func (s scenario) messages(p pace, quick bool) int {
	if s.Messages > 0 {
		return s.Messages
	}
	n := worth[s.Octets][p]
	if p == slowest && s.Sessions == 1 {
		n = 24
	}
	if quick {
		n /= 4
	}
	return max(n, s.Sessions)
}
