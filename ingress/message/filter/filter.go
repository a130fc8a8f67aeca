package filter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// An Envelope is what filters are told of a message besides its octets.
type Envelope struct {
	Hostname   string         // ours
	AuthservID string         // ours: no filter adds results under this name
	Client     netip.AddrPort // zero if it is not known
	Share      netip.Prefix   // whose share of a filter the message takes; zero: it is not limited
	Name       string         // of the client, as a front end calls it; "" if that is not known
	Helo       string
	TLS        string // the version; "" in clear
	User       string // that the client has logged in as; "" if it has not
	Reverse    mail.Path
	Forwards   []mail.Path // as the client wrote them
	Trace      mail.TraceID
	Size       int64 // octets of the message without added dots; 0 if they are not known
	Streams    bool  // the message has begun, and its end is not there yet
	Score      float64
	Scored     bool // the client has a Score
}

// A Scan is one message under way at one filter. It is used by one goroutine at a time. The deadline of each ctx is the
// end of the wait, and so is the end of ctx.
type Scan interface {
	// Rcpt tells of a recipient beside those of the Envelope, before the first octet, and returns what the filter says
	// of it. It reports whether that is said of the message, whatever comes.
	Rcpt(ctx context.Context, forward mail.Path) (a Answer, decided bool, err error)
	// Write passes octets on, in slices that it neither keeps nor changes. It reports whether the filter has said
	// already what it will say and needs no more of them.
	Write(ctx context.Context, plain [][]byte) (decided bool, err error)
	// End says that the message has ended, unless the filter needs no more, and returns what it says of it.
	End(ctx context.Context) (Answer, error)
	// Close ends the dialogue, whatever its state.
	Close()
}

// Late says what becomes of a message about which a filter says nothing in time.
type Late uint8

// The values of Late.
const (
	LateAccept   Late = iota // it is delivered as if the filter had accepted it
	LateTempfail             // it is put off
)

// Quarantine says what becomes of a message that a filter wants kept apart.
type Quarantine uint8

// The values of Quarantine.
const (
	QuarantineField  Quarantine = iota // a field says so
	QuarantineReject                   // it is refused
)

// The defaults of a Config.
const (
	DefaultDeadline    = 15 * time.Second
	DefaultConcurrency = 64
	DefaultFloor       = 64 << 10
)

// A Config says where a filter is and how it is asked.
type Config struct {
	Name     string // for the log and the metrics; required
	Rspamd   string // host:port, or "unix:" and a path, of a worker of rspamd that speaks /checkv2
	Milter   string // the same of a milter; one of the two is required
	Password string // of rspamd; "" without one
	// Deadline bounds all that a message waits for the filter while it comes in, and the wait behind it; 0: 15 s.
	Deadline   time.Duration
	Late       Late
	Quarantine Quarantine
	// Concurrency is how many messages the filter is shown at a time; 0: 64.
	Concurrency int
	// Floor is how many octets a second a client has to bring of a message that streams, so that it does not give way
	// to others; 0: 64 KiB.
	Floor int64
	Now   func() time.Time // nil: time.Now
	// Changed is told when the filter is not asked any more, and why, and with nil when it answers again. nil disables
	// it.
	Changed func(name string, why error)
	// Dial connects; nil: as net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// maxDeadline bounds Config.Deadline: a client waits ten minutes for the reply to its dot (RFC 5321 section 4.5.3.2.6),
// and the next hop is to have most of them.
const maxDeadline = 2 * time.Minute

// maxConcurrency bounds Config.Concurrency: each of them is a connection.
const maxConcurrency = 4096

// Validate returns all fields that are wrong as mail.Faults, or nil.
func (c *Config) Validate() error {
	var wrong mail.Faults
	wrong.AddIf(c.Name == "", "name", "is required")
	switch {
	case c.Rspamd != "" && c.Milter != "":
		wrong.Add("milter", "stands beside rspamd: a filter is one of the two")
	case c.Milter != "":
		why := addressFault(c.Milter)
		wrong.AddIf(why != "", "milter", why)
		wrong.AddIf(c.Password != "", "password_file", "is for rspamd: a milter asks for none")
	case c.Rspamd == "":
		wrong.Add("rspamd", "is required, or milter: where the filter is")
	default:
		why := addressFault(c.Rspamd)
		wrong.AddIf(why != "", "rspamd", why)
	}
	wrong.AddIf(c.Deadline < 0 || c.Deadline > maxDeadline, "deadline",
		"is above 2m: the next hop has to answer as well")
	wrong.AddIf(c.Concurrency < 0 || c.Concurrency > maxConcurrency, "concurrency",
		fmt.Sprintf("is not between 1 and %d", maxConcurrency))
	return wrong.Err()
}

// addressFault returns what is wrong with the address of a filter, "" if nothing is.
func addressFault(s string) string {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if !strings.HasPrefix(path, "/") || len(path) >= maxSocketName {
			return "is not unix: and the whole path of a socket"
		}
		return ""
	}
	host, port, err := net.SplitHostPort(s)
	n, portErr := strconv.Atoi(port)
	if err != nil || portErr != nil || host == "" || n < 1 || n > 65535 || strings.Contains(s, "/") {
		return "is neither host:port nor unix: and a path"
	}
	return ""
}

// maxSocketName is the size of the field for the name of a unix socket (unix(7)).
const maxSocketName = 108

// A Filter is one filter of a node, and how it does. It is safe for concurrent use.
type Filter struct {
	cfg     Config
	open    func(ctx context.Context, e *Envelope) (Scan, error)
	slots   slots
	breaker breaker
}

// A Set is the filters of a node. It is safe for concurrent use.
type Set struct {
	filters []*Filter
	atRcpt  bool // one of them is asked about recipients
}

// AtRcpt reports whether filters are asked about recipients, before the message. It is false for a nil Set.
func (s *Set) AtRcpt() bool { return s != nil && s.atRcpt }

// New returns the Set of filters, which are asked in no order: all at a time. The error is that of Config.Validate.
func New(all []Config) (*Set, error) {
	s := &Set{}
	for _, cfg := range all {
		if err := cfg.Validate(); err != nil {
			return nil, err
		}
		if cfg.Deadline == 0 {
			cfg.Deadline = DefaultDeadline
		}
		if cfg.Concurrency == 0 {
			cfg.Concurrency = DefaultConcurrency
		}
		cfg.Floor = cmp.Or(cfg.Floor, DefaultFloor)
		if cfg.Now == nil {
			cfg.Now = time.Now
		}
		if cfg.Changed == nil {
			cfg.Changed = func(string, error) {}
		}
		if cfg.Dial == nil {
			cfg.Dial = new(net.Dialer).DialContext
		}
		f := &Filter{cfg: cfg, slots: slots{most: cfg.Concurrency, floor: cfg.Floor}}
		if f.open = f.openRspamd; cfg.Milter != "" {
			f.open = f.openMilter
			s.atRcpt = true
		}
		s.filters = append(s.filters, f)
	}
	return s, nil
}

// Names returns the names of the filters, none for a nil Set.
func (s *Set) Names() (names []string) {
	if s == nil {
		return nil
	}
	for _, f := range s.filters {
		names = append(names, f.cfg.Name)
	}
	return names
}

// dial connects to the filter at an address that addressFault takes.
func (f *Filter) dial(ctx context.Context, address string) (net.Conn, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	at, _ := ctx.Deadline()
	ctx, cancel := context.WithDeadline(ctx, at)
	defer cancel()
	conn, err := f.cfg.Dial(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreached, err)
	}
	return conn, nil
}

// begin takes a slot and opens the dialogue about a message. The caller returns the slot unless there is an error.
func (f *Filter) begin(ctx context.Context, e *Envelope) (Scan, slot, error) {
	if err := f.breaker.ask(f.cfg.Now()); err != nil {
		return nil, slot{}, err
	}
	taken := slot{share: e.Share, paced: e.Streams}
	if err := f.slots.take(ctx, taken); err != nil {
		f.breaker.unasked()
		return nil, slot{}, err
	}
	scan, err := f.open(ctx, e)
	if err != nil {
		f.slots.give(taken)
		return nil, slot{}, err
	}
	return scan, taken, nil
}

// errClosed means that a filter closed the connection before it had answered.
var errClosed = errors.New("it closed the connection")

// errUnreached means that no connection with a filter came about.
var errUnreached = errors.New("cannot be connected to")

// note takes note of how a filter did that was asked about a message.
func (f *Filter) note(err error, e *Envelope) {
	switch {
	case errors.Is(err, errNotAsked), errors.Is(err, errBusy):
		return
	case errors.Is(err, context.Canceled):
		f.breaker.unasked()
		return
	}
	share := e.Share
	if errors.Is(err, errUnreached) {
		share = netip.Prefix{} // it has not seen the message
	}
	if changed := f.breaker.note(f.cfg.Now(), err == nil, share); changed {
		f.cfg.Changed(f.cfg.Name, err)
	}
}
