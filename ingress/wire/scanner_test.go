package wire

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// scanned is all that a scanner finds out about a stream.
type scanned struct {
	used  int // octets up to the end of data
	end   bool
	bare  bool
	dots  []uint32
	long  int
	width int64
}

// scanByOctets is the oracle: the rules, one octet at a time.
func scanByOctets(p []byte, plain bool) scanned {
	var r scanned
	line := int64(0)
	start := 0 // of the line
	at := func(i int) byte {
		if i < 0 || i >= len(p) {
			return 0
		}
		return p[i]
	}
	for i := 0; i < len(p); i++ {
		switch {
		case p[i] == '\n' && i > 0 && p[i-1] == '\r':
			line-- // the CR
			r.width = max(r.width, line)
			if line > maxTextLine {
				r.long++
			}
			if !plain && i-start == 2 && p[start] == '.' {
				r.used, r.end = i+1, true
				r.dots = r.dots[:len(r.dots)-1]
				return r
			}
			line, start = 0, i+1
			continue
		case p[i] == '\n':
			r.bare = true
		case p[i] == '\r' && i+1 < len(p) && at(i+1) != '\n':
			r.bare = true
		case p[i] == '.' && i == start:
			r.dots = append(r.dots, uint32(i))
		}
		line++
	}
	if plain && len(p) > 0 && p[len(p)-1] == '\r' {
		r.bare = true
	}
	r.used = len(p)
	if n := len(p); n > 0 && p[n-1] == '\r' {
		line--
	}
	if plain && start < len(p) && line > maxTextLine {
		r.long++
	}
	r.width = max(r.width, line)
	return r
}

// scanInCuts scans p with a cut behind each of the given lengths, in blocks if masks is true.
func scanInCuts(p []byte, plain, masks bool, cuts []byte) scanned {
	s := newScanner(plain)
	s.masks = s.masks && masks
	var r scanned
	for k := 0; r.used < len(p) && !r.end; k++ {
		n := len(p) - r.used
		if len(cuts) > 0 {
			n = min(n, int(cuts[k%len(cuts)])+1)
		}
		var used int
		used, r.end, r.dots = s.scan(p[r.used:r.used+n], r.used, r.dots)
		r.used += used
	}
	if plain {
		s.finish()
	}
	r.bare, r.long, r.width = s.bare, s.long, s.width()
	return r
}

func sameScan(t *testing.T, p []byte, plain bool, cuts []byte) {
	t.Helper()
	want := scanByOctets(p, plain)
	for _, masks := range []bool{true, false} {
		compareScans(t, scanInCuts(p, plain, masks, cuts), want, p, plain, cuts)
	}
}

func compareScans(t *testing.T, got, want scanned, p []byte, plain bool, cuts []byte) {
	t.Helper()
	if got.used != want.used || got.end != want.end || got.bare != want.bare || got.long != want.long ||
		got.width != want.width ||
		!slices.Equal(got.dots, want.dots) {
		t.Fatalf("%q plain=%t cuts=%v:\ngot  %+v\nwant %+v", p, plain, cuts, got, want)
	}
}

func TestScanner(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   string
		used int // 0: no end of data
		bare bool
		dots int
	}{
		{"an empty message ends with its first line", ".\r\nrest", 3, false, 0},
		{"a message ends with a dot alone on a line", "a\r\n.\r\nrest", 6, false, 0},
		{"dots that open a line are kept in mind", "..\r\n...\r\n.a\r\na.\r\n.\r\n", 20, false, 3},
		{"a bare LF before the dot is no line", "a\n.\r\nb\r\n.\r\n", 11, true, 0},
		{"a bare LF behind the dot is no end", "a\r\n.\nb\r\n.\r\n", 11, true, 1},
		{"a bare CR behind the dot is no end", "a\r\n.\rb\r\n.\r\n", 11, true, 1},
		{"CR CR LF begins a line", "a\r\r\n.\r\n", 7, true, 0},
		{"a bare LF behind the end is no part of it", "a\r\n.\r\n\n", 6, false, 0},
		{"a NUL is an octet", "\x00\r\n\x00.\r\n.\r\n", 10, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := scanInCuts([]byte(tc.in), false, true, nil)
			if got.used != tc.used || !got.end || got.bare != tc.bare || len(got.dots) != tc.dots {
				t.Errorf("got %+v", got)
			}
			for n := range len(tc.in) {
				sameScan(t, []byte(tc.in), false, []byte{byte(n)})
				sameScan(t, []byte(tc.in), true, []byte{byte(n)})
			}
		})
	}
}

// TestScanner_Exhaustive compares the scanner with its oracle for each stream of 8 octets of the alphabet that matters,
// in each pair of cuts.
func TestScanner_Exhaustive(t *testing.T) {
	const alphabet = "\r\n.x"
	p := make([]byte, 8)
	for n := range 1 << 16 {
		for i := range p {
			p[i] = alphabet[n>>(2*i)&3]
		}
		for _, cuts := range [][]byte{nil, {0}, {1}, {2, 0}} {
			sameScan(t, p, false, cuts)
			sameScan(t, p, true, cuts)
		}
	}
}

// TestScanner_Blocks compares the scanner with its oracle where what matters stands at each place of two blocks and
// around their ends, between lines of each kind of length.
func TestScanner_Blocks(t *testing.T) {
	for _, what := range []string{
		"\r\n", "\r", "\n", "\r\n.\r\n", "\r\n..\r\n", "\r\n.", "\r\n.\r", "\r\n.x\r\n.y", "\r\n\r\n", "\n\r",
		"\r\r\n", "\r\n.\r\nQUIT\n", "\r\n.\n\r\n", ".\r\n",
	} {
		for at := range 3 * blockOctets {
			for _, behind := range []int{0, 1, 63, 64, 65, 700} {
				p := []byte(strings.Repeat("x", at) + what + strings.Repeat("y", behind) + "\r\n.z\r\n.\r\n")
				for _, cuts := range [][]byte{nil, {uint8(at), 255}, {uint8(at + 1), 255}, {63}} {
					sameScan(t, p, false, cuts)
					sameScan(t, p, true, cuts)
				}
			}
		}
	}
	// Between lines that are long, which are not looked for in blocks, and short ones.
	for _, n := range []int{510, 511, 512, 513, 998, 999, 5000} {
		line := strings.Repeat("x", n) + "\r\n"
		p := []byte(strings.Repeat(line+".a\r\n"+strings.Repeat("short\r\n", 30)+line+line, 3) + ".\r\n")
		sameScan(t, p, false, nil)
		sameScan(t, p, true, nil)
		sameScan(t, p, false, []byte{200, 77})
	}
}

func FuzzScanner(f *testing.F) {
	f.Add([]byte("Subject: x\r\n\r\n..dot\r\n.\r\nRSET\r\n"), []byte{3})
	f.Add([]byte("a\n.\r\n\r.\r\r\n.\r\n"), []byte{0})
	f.Add([]byte(strings.Repeat("x", 999)+"\r\n.\r\n"), []byte{200})
	f.Add([]byte(strings.Repeat(strings.Repeat("x", 76)+"\r\n..y\r\n", 12)+".\r\n"), []byte(nil))
	f.Add([]byte(strings.Repeat("x", 63)+"\r\n.\r\nQUIT\r\n"+strings.Repeat("x\n", 63)), []byte{255})
	f.Fuzz(func(t *testing.T, p, cuts []byte) {
		sameScan(t, p, false, cuts)
		sameScan(t, p, true, cuts)
	})
}

// BenchmarkScanner scans a slab of lines. of-IndexByte is its speed as a part of that of bytes.IndexByte, which is
// asked for the LF of each line of the same octets, and of-octets of that without blocks; in the same run, by CPU time.
func BenchmarkScanner(b *testing.B) {
	for _, width := range []int{76, 30, 200, 998, 5000} {
		b.Run(strconv.Itoa(width), func(b *testing.B) {
			line := []byte(strings.Repeat("a", width) + "\r\n")
			p := bytes.Repeat(line, SlabOctets/len(line))
			search := func() {
				for rest := p; len(rest) > 0; {
					rest = rest[bytes.IndexByte(rest, '\n')+1:]
				}
			}
			scan := func(masks bool) {
				s := newScanner(false)
				s.masks = s.masks && masks
				s.scan(p, 0, nil)
			}
			var bare, single, all time.Duration
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				began := processCPU(b)
				search()
				between := processCPU(b)
				scan(false)
				next := processCPU(b)
				scan(true)
				bare, single, all = bare+between-began, single+next-between, all+processCPU(b)-next
			}
			b.ReportMetric(float64(all)/float64(b.N), "scan-cpu-ns")
			b.ReportMetric(float64(bare)/float64(all), "of-IndexByte")
			b.ReportMetric(float64(single)/float64(all), "of-octets")
		})
	}
}

// processCPU returns the CPU time of this process so far.
func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &now); err != nil {
		b.Fatal(err)
	}
	return time.Duration(now.Nano())
}
