package rules

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Config has what rules depend on besides their files.
type Config struct {
	// Postmaster takes mail for <Postmaster>, and for postmaster@ and abuse@ of our domains where no literal address
	// names them. It is required as soon as a domain is hosted.
	Postmaster mail.Path
	// Own are domains that are this system itself: its hostname, its SRS domain. They have a postmaster and no other
	// mailbox, unless the files host them, and no target may name them.
	Own []string
	// Local are the addresses that this node listens on. A next hop that is one of them is an error.
	Local []netip.AddrPort
	// HasCredentials reports whether there is a password for user at host and port. nil means that there are no
	// passwords.
	HasCredentials func(user, host string, port uint16) bool
	// CheckHook returns what is wrong with the name or the URL of a hook, without repeating it. nil means that there
	// are no hooks.
	CheckHook func(hook string) error
	// FanOut is the most next hops at a time that one recipient may have. 0 means one, because what is delivered to one
	// and not to another comes again to both.
	FanOut int
	// MessageSize is the most octets of a message that the node takes. A line that allows more has a warning. 0 means
	// that there is no such bound.
	MessageSize int64
	// Now is the clock by which a line whose time is over has a warning. nil means that there is none.
	Now func() time.Time
}

// The limits of rules and files.
const (
	MaxLine    = 16 << 10 // octets of a line
	MaxTargets = 100      // targets of a rule, and of a recipient with all its aliases
	MaxChain   = 10       // rules between a recipient and its target
	maxSteps   = 1000     // rules followed for one recipient
	maxText    = math.MaxUint32 - 1
	maxFiles   = math.MaxUint16
	maxOptions = math.MaxUint16
)

var errTooLong = errors.New("rules files have more than 4 GiB")

func tooMany(files int) error {
	return fmt.Errorf("%d rules files, at most %d are read", files, maxFiles)
}

// Load reads rules files and returns one Table of them. The path of a folder means the files *.txt directly in it, in
// the order of their names, without those that begin with a dot. A folder without files *.txt is an error, so that a
// mount that failed does not look like an empty set of rules.
//
// The error is an *Errors for the files, a *mail.FieldError for the Config, or that of reading.
func Load(paths []string, cfg Config) (*Table, error) {
	names, err := Names(paths)
	if err != nil {
		return nil, err
	}
	var size int64
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		size += info.Size()
	}
	if size > maxText {
		return nil, errTooLong
	}
	b := newBuilder(cfg)
	b.text.Grow(int(size) + len(names))
	for _, name := range names {
		if err := b.readFile(name); err != nil {
			return nil, err
		}
	}
	return b.build()
}

// Parse reads one rules file from r and returns its Table. name is its name in errors. Its error is as that of Load.
func Parse(name string, r io.Reader, cfg Config) (*Table, error) {
	b := newBuilder(cfg)
	if err := b.read(name, r); err != nil {
		return nil, err
	}
	return b.build()
}

// Names returns the names of the files that Load reads for paths.
func Names(paths []string) ([]string, error) {
	var names []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			names = append(names, path)
			continue
		}
		entries, err := os.ReadDir(path) // sorted by name
		if err != nil {
			return nil, err
		}
		before := len(names)
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".txt") && e.Name()[0] != '.' {
				names = append(names, filepath.Join(path, e.Name()))
			}
		}
		if len(names) == before {
			return nil, fmt.Errorf("%s: no file *.txt in this folder", path)
		}
	}
	if len(names) > maxFiles {
		return nil, tooMany(len(names))
	}
	return names, nil
}

func (b *builder) readFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return b.read(name, f)
}

// read appends a file to the text.
func (b *builder) read(name string, r io.Reader) error {
	start := b.text.Len()
	if _, err := io.Copy(&b.text, io.LimitReader(r, int64(maxText-start)+1)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if b.text.Len() > maxText {
		return errTooLong
	}
	b.t.files = append(b.t.files, name)
	b.ends = append(b.ends, b.text.Len())
	return nil
}

// A builder makes a Table. It parses the text once, line by line. What depends on other lines comes after, by a linker.
type builder struct {
	cfg  Config
	t    *Table
	text strings.Builder
	ends []int // where each file ends in text

	cursor

	extra   strings.Builder
	shared  sharedParts
	regexes map[string]int // domain and pattern of regexes and globs to the place among those of the domain
	blocks  []block
	star    options
	starAt  *Error // where the line "domain *" is
}

func newBuilder(cfg Config) *builder {
	b := &builder{cfg: cfg, t: &Table{
		ruleLines:   ruleLines{conditions: map[uint32]*condition{}},
		domainNames: domainNames{domainOf: map[string]uint32{}, below: map[string]uint32{}},
		regexes:     map[uint32][]regex{},
		hooks:       map[uint32]string{},
		globs:       map[uint32][]glob{},
		fixed:       map[mail.NextHop]Comers{},
		relays:      map[string]*relay{},
		options:     make([]options, 1),
		postmaster:  cfg.Postmaster,
		fanOut:      cfg.FanOut,
	}}
	b.mistakes.t = b.t
	b.shared = newSharedParts(b.t)
	b.regexes = map[string]int{}
	b.most = cfg.MessageSize
	if cfg.Now != nil {
		b.now = cfg.Now().Unix()
	}
	return b
}

// build parses what was read and links it.
func (b *builder) build() (*Table, error) {
	t := b.t
	t.text, t.ends = b.text.String(), b.ends
	lines := strings.Count(t.text, "\n")
	t.rules = make([]rule, 0, lines+1)
	t.targets = make([]target, 0, lines+1)
	start := 0
	for i, end := range b.ends {
		b.file, b.line = i, 0
		b.parseFile(start, end)
		start = end
	}
	t.extra = b.extra.String()
	t.defaults = b.star.over(mail.DomainPolicy{})
	linker{&b.cfg, t, &b.mistakes, b.blocks}.link()
	if len(b.errs.List) > 0 {
		b.errs.sort()
		return nil, &b.errs
	}
	t.rules, t.targets, t.domains = compact(t.rules), compact(t.targets), compact(t.domains)
	if err := checkPostmaster(t); err != nil {
		return nil, err
	}
	return t, nil
}

// compact returns s, or a copy if s has much spare capacity.
func compact[T any](s []T) []T {
	if cap(s) > len(s)+len(s)/8 {
		return slices.Clone(s)
	}
	return s
}

// parseFile parses the lines between two offsets of the text.
func (b *builder) parseFile(start, end int) {
	const bom = "\ufeff"
	if strings.HasPrefix(b.t.text[start:end], bom) {
		start += len(bom)
	}
	if why := foreignText(b.t.text[start:end]); why != "" {
		b.line, b.start, b.at = 1, start, start
		b.fail(why)
		return
	}
	for start < end {
		stop, next := end, end
		if n := strings.IndexByte(b.t.text[start:end], '\n'); n >= 0 {
			stop, next = start+n, start+n+1
		}
		b.line++
		b.parseLine(start, stop)
		start = next
	}
}

// foreignText returns what is wrong with a file as a whole that is no text of lines in UTF-8, or "".
func foreignText(text string) string {
	switch {
	case strings.HasPrefix(text, "\xff\xfe"), strings.HasPrefix(text, "\xfe\xff"):
		return "the file is UTF-16: save it as UTF-8"
	case strings.Contains(strings.TrimRight(text, "\r"), "\r") && !strings.Contains(text, "\n"):
		return "the lines end in CR alone: save the file with line ends of Unix"
	}
	return ""
}
