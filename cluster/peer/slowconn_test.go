package peer

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/router/mail"
)

// A stepConn returns octets in steps, meets a deadline between two steps, and counts writes.
type stepConn struct {
	sinkConn
	steps  [][]byte
	met    bool
	writes int
	fails  error // of writes
}

func (c *stepConn) Read(b []byte) (int, error) {
	if len(c.steps) == 0 {
		return 0, io.EOF
	}
	if c.met = !c.met; c.met {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(b, c.steps[0])
	if c.steps[0] = c.steps[0][n:]; len(c.steps[0]) == 0 {
		c.steps = c.steps[1:]
	}
	return n, nil
}

func (c *stepConn) Write(b []byte) (int, error) {
	c.writes++
	if c.fails != nil {
		return 0, c.fails
	}
	return c.sinkConn.Write(b)
}

// Held writes leave together and in order.
func TestSlowConn_Hold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &stepConn{}
		p := newSlowConn(c, beat, new(frameBuffers))
		var want []byte
		p.hold()
		for range rapid.IntRange(0, 40).Draw(t, "writes") {
			b := bytes.Repeat([]byte{byte(len(want))},
				rapid.SampledFrom([]int{1, 22, 16 << 10, largeBuffer, 2 * largeBuffer}).Draw(t, "size"))
			if n, err := p.Write(b); n != len(b) || err != nil {
				t.Fatal(n, err)
			}
			want = append(want, b...)
		}
		if err := p.release(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.Bytes(), want) {
			t.Fatalf("%d octets came of %d", c.Len(), len(want))
		}
		if n := len(want); n <= largeBuffer && c.writes > 1 {
			t.Fatalf("%d octets left in %d writes", n, c.writes)
		}
		if _, err := p.Write([]byte("x")); err != nil || c.Len() != len(want)+1 {
			t.Fatal("a write after release is held")
		}
	})
}

// A piece whose held octets cannot be written was not sent, which is an error.
func TestLink_SendPieceFails(t *testing.T) {
	broken := errors.New("broken")
	for _, size := range []int{1, gatherSize, maxPiece, 5 * maxPiece} {
		p := &piece{octets: octets(string(make([]byte, size)))}
		l := newLink(&stepConn{fails: broken}, beat, new(frameBuffers), nil)
		if err := l.sendPiece(commit, p); !errors.Is(err, broken) {
			t.Errorf("%d octets: %v", size, err)
		}
	}
}

// Octets that were read ahead are returned in order.
func TestSlowConn_ReadAhead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &stepConn{}
		var want []byte
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			b := bytes.Repeat([]byte{byte(len(want))},
				rapid.SampledFrom([]int{1, 5000, 17000, largeBuffer, 3 * largeBuffer}).Draw(t, "step"))
			want = append(want, b...)
			c.steps = append(c.steps, b)
		}
		p := newSlowConn(c, beat, new(frameBuffers))
		room := make([]byte, 17000)
		var got []byte
		for {
			n, err := p.Read(room[:rapid.SampledFrom([]int{5, 600, readAhead, 17000}).Draw(t, "read")])
			got = append(got, room[:n]...)
			if err == io.EOF {
				break
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%d octets came of %d", len(got), len(want))
		}
		if p.in.ahead != nil {
			t.Fatal("the buffer was not put back")
		}
	})
}

// An answer that arrives in parts is returned whole, with any goroutine reading the first part.
func TestAnswerReader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		size := rapid.SampledFrom([]int{0, 1, smallAnswer - frameHeader, smallAnswer, 5000, maxFields})
		sizes := rapid.SliceOfN(size, 1, 6).Draw(t, "sizes")
		for i, n := range sizes {
			stream = append(header(stream, done, n), bytes.Repeat([]byte{byte(i)}, n)...)
		}
		c := &stepConn{}
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), rapid.SampledFrom([]int{1, 4, 6, 1000, 100000}).Draw(t, "part"))
			if len(c.steps) > 200 {
				n = len(rest)
			}
			c.steps, rest = append(c.steps, rest[:n]), rest[n:]
		}
		a := &answerReader{link: newLink(c, beat, new(frameBuffers), nil)}
		for i, n := range sizes {
			k, body, err := a.next(rapid.Bool().Draw(t, "listening"))
			for errors.Is(err, os.ErrDeadlineExceeded) {
				k, body, err = a.next(rapid.Bool().Draw(t, "listening"))
			}
			if k != done || err != nil || !bytes.Equal(body, bytes.Repeat([]byte{byte(i)}, n)) {
				t.Fatalf("frame %d of %d octets: kind %d, %d octets, %v", i, n, k, len(body), err)
			}
		}
		if _, _, err := a.next(true); err != io.EOF {
			t.Fatal(err)
		}
	})
}

// A goodbye that meets an answer is written after it, once.
func TestServerConn_Goodbye(t *testing.T) {
	s := plainServer(t, &destination{})
	sink := &stepConn{}
	c := newServerConn(s, sink, nil)
	defer c.cancel()
	c.greeted = true
	c.writing.Lock()
	c.leave()
	c.writing.Unlock()
	if sink.Len() != 0 {
		t.Fatalf("%x was written amidst an answer", sink.Bytes())
	}
	for range 2 {
		if err := c.work.answer(done, lend, noFields); err != nil {
			t.Fatal(err)
		}
	}
	one := frame(nil, done, func(f fields) fields { return append(f, fAnswers, 0, 1, byte(lend)) })
	if want := append(header(bytes.Clone(one), goodbye, 0), one...); !bytes.Equal(sink.Bytes(), want) {
		t.Errorf("got %x, want %x", sink.Bytes(), want)
	}
}

// A busy connection has no listener, because the waiting goroutine reads itself. An idle one has a listener.
func TestClientLink_Listener(t *testing.T) {
	w := newWorld(t, &destination{}, time.Hour, nil)
	for range 20 {
		if out := w.deliver(); out.Reply.Code != 250 {
			t.Fatal(out)
		}
	}
	listened := func() bool {
		w.client.mu.Lock()
		defer w.client.mu.Unlock()
		for l := range w.client.links {
			l.mu.Lock()
			reading := l.reading
			l.mu.Unlock()
			if reading {
				return true
			}
			defer l.tick()
		}
		return false
	}
	if listened() {
		t.Error("a listener runs")
	}
	until(t, "a listener runs", listened)
	if out := w.deliver(); out.Reply.Code != 250 {
		t.Fatal(out)
	}
	if listened() {
		t.Error("a listener runs still")
	}
}

// A fullConn takes so many octets in a beat, while its peer sends signs of life.
type fullConn struct {
	sinkConn
	above *slowConn
	takes int
	beats int
}

func (c *fullConn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.beats++
	c.above.heard.Add(1)
	return min(c.takes, len(p)), os.ErrDeadlineExceeded
}

// TestSlowConn_Stall: a write to a peer that lives and takes nothing, or next to nothing where others wait, ends after
// as many beats as is set.
func TestSlowConn_Stall(t *testing.T) {
	for _, tt := range []struct {
		stall        time.Duration
		takes, beats int
	}{
		{0, 0, maxStalledBeats}, {15 * beat, 0, 15}, {beat / 2, 0, 1}, {15 * beat, 1, 15}, {15 * beat, 2047, 15},
	} {
		socket := &fullConn{takes: tt.takes}
		c := newSlowConn(socket, beat, new(frameBuffers))
		socket.above = c
		c.setStall(tt.stall)
		if _, err := c.Write(make([]byte, 64<<10)); !errors.Is(err, errStalled) || socket.beats != tt.beats {
			t.Errorf("%s: %v after %d beats, want %d", tt.stall, err, socket.beats, tt.beats)
		}
	}
	for _, stall := range []time.Duration{0, 15 * beat} {
		socket := &fullConn{takes: mail.LeastRate}
		c := newSlowConn(socket, beat, new(frameBuffers))
		socket.above = c
		c.setStall(stall)
		if n, err := c.Write(make([]byte, 64<<10)); errors.Is(err, errStalled) || n != 64<<10 {
			t.Errorf("%d octets went out, %v", n, err)
		}
	}
}
