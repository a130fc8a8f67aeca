package routes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/leaf/atomicfile"
)

// The files of the state folder.
const (
	savedName = "rules"       // the shared set of the highest version seen
	filesName = "rules-files" // the baseline of the files
)

// stateMagic begins each file. The version of the set, its digest, a line feed and the set follow.
const stateMagic = "millrace rules 1"

// A folder is the rules in the state folder. The zero value keeps nothing.
type folder struct {
	path     string
	readOnly bool // nothing is kept, as with no path
}

// A saved is a set that was read from the state folder.
type saved struct {
	version uint64
	digest  string
	set     set
}

// load reads the set with a name. If there is no file, the set is nil and there is no error.
func (f folder) load(name string) (saved, error) {
	if f.path == "" {
		return saved{}, nil
	}
	b, err := os.ReadFile(filepath.Join(f.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return saved{}, nil
	}
	if err != nil {
		return saved{}, err
	}
	h, err := parseState(b)
	if err != nil {
		return saved{}, fmt.Errorf("%s: %w", filepath.Join(f.path, name), err)
	}
	return h, nil
}

// save writes a set with a name. After a crash the file has either the old or the new content.
func (f folder) save(name string, version uint64, encoded []byte) error {
	if f.path == "" || f.readOnly {
		return nil
	}
	text := append([]byte(stateHeader(version, digest(encoded))), encoded...)
	return atomicfile.Write(filepath.Join(f.path, name), text)
}

// stateHeader returns the first line of a file.
func stateHeader(version uint64, digest string) string {
	return stateMagic + " " + strconv.FormatUint(version, 10) + " " + digest + "\n"
}

var errState = errors.New("it is not what was kept here, or not all of it")

// parseState reads a file of the state folder. It returns an error for anything that save does not write.
func parseState(b []byte) (saved, error) {
	header, _, ok := strings.Cut(string(b[:min(len(b), 200)]), "\n")
	if !ok {
		return saved{}, errState
	}
	encoded := b[len(header)+1:]
	h := saved{digest: digest(encoded)}
	number, _, _ := strings.Cut(strings.TrimPrefix(header, stateMagic+" "), " ")
	var err error
	if h.version, err = strconv.ParseUint(number, 10, 64); err != nil || h.version > maxVersion {
		return saved{}, errState
	}
	if header+"\n" != stateHeader(h.version, h.digest) {
		return saved{}, errState
	}
	if h.set, err = decode(encoded); err != nil {
		return saved{}, err
	}
	if h.set == nil {
		h.set = set{}
	}
	return h, nil
}
