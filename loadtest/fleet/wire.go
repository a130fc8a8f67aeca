package fleet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Wire is what the frames between a port and the Hub meet, in each direction. The zero Wire is a cable. What delays,
// reorders and drops them is this process: a kernel may lack netem, and a packet filter that can be asked is no part of
// it.
type Wire struct {
	Delay  time.Duration
	Jitter time.Duration // by chance up to so much more, so that frames overtake each other
	Loss   float64       // the chance of each frame
}

// lay leads from the Hub, where its end is a device of that name, to the port, where it is eth0.
func (w Wire) lay(ctx context.Context, name string, p Port) error {
	near, err := tap(name)
	if err != nil {
		return err
	}
	p.ends = append(p.ends, near)
	var far *os.File
	if err := p.Do(func() (err error) {
		far, err = tap("eth0")
		return err
	}); err != nil {
		return err
	}
	p.ends = append(p.ends, far)
	p.carried.Go(func() { w.carry(near, far, &p.longestIn) }) // both end with Close
	p.carried.Go(func() { w.carry(far, near, &p.longestOut) })
	return p.Do(func() error { return IP(ctx, "link set eth0 address "+p.hardware()) })
}

// carry moves frames until an end is closed. Those that are longer than longest, unless it is 0, are lost.
func (w Wire) carry(from, to *os.File, longest *atomic.Int64) {
	b := make([]byte, 2048)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if most := longest.Load(); most > 0 && int64(n) > most || rand.Float64() < w.Loss {
			continue
		}
		wait := w.Delay
		if w.Jitter > 0 {
			wait += rand.N(w.Jitter)
		}
		frame := append([]byte(nil), b[:n]...)
		time.AfterFunc(wait, func() { to.Write(frame) }) // a frame that comes too late is lost
	}
}

// tap makes a network device whose frames are read from and written to a file, in the network of the caller's thread.
func tap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("no device for a wire: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("no device for a wire: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
