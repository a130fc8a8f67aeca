package routes

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The files of the state folder.
const (
	heldName  = "rules"       // the shared set of the highest version seen
	filesName = "rules-files" // the files as they were last taken in
	tempName  = ".rules-new"  // one that is being written
)

// stateMagic begins each of them. The version of the set and its digest follow, and behind a line feed the set.
const stateMagic = "millrace rules 1"

// A folder is the state folder, as far as it holds rules. The zero value keeps nothing.
type folder struct {
	path   string
	create func(name string) (output, error) // nil: os.OpenFile
}

// An output is a file that is being written.
type output interface {
	io.Writer
	Sync() error
	Close() error
}

// A held is a set as it was kept.
type held struct {
	version uint64
	digest  string
	set     set
}

// load reads what was kept under a name. There may be nothing: then the set is nil, and there is no error.
func (f folder) load(name string) (held, error) {
	if f.path == "" {
		return held{}, nil
	}
	b, err := os.ReadFile(filepath.Join(f.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return held{}, nil
	}
	if err != nil {
		return held{}, err
	}
	h, err := parseState(b)
	if err != nil {
		return held{}, fmt.Errorf("%s: %w", filepath.Join(f.path, name), err)
	}
	return h, nil
}

// save keeps a set under a name, so that after a crash either it is there or what was there before.
func (f folder) save(name string, version uint64, encoded []byte) error {
	if f.path == "" {
		return nil
	}
	if err := os.MkdirAll(f.path, 0o700); err != nil {
		return err
	}
	temp := filepath.Join(f.path, tempName)
	if err := f.write(temp, stateHeader(version, digest(encoded)), encoded); err != nil {
		_ = os.Remove(temp) // it may not be there
		return err
	}
	if err := os.Rename(temp, filepath.Join(f.path, name)); err != nil {
		_ = os.Remove(temp) // the error that counts is the one above
		return err
	}
	dir, err := os.Open(f.path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (f folder) write(temp, header string, encoded []byte) error {
	create := f.create
	if create == nil {
		create = func(name string) (output, error) {
			return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		}
	}
	out, err := create(temp)
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, header)
	if err == nil {
		_, err = out.Write(encoded)
	}
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

func stateHeader(version uint64, digest string) string {
	return stateMagic + " " + strconv.FormatUint(version, 10) + " " + digest + "\n"
}

var errState = errors.New("it is not what was kept here, or not all of it")

// parseState reads a file of the state folder, and takes nothing that save does not write.
func parseState(b []byte) (held, error) {
	header, _, ok := strings.Cut(string(b[:min(len(b), 200)]), "\n")
	if !ok {
		return held{}, errState
	}
	encoded := b[len(header)+1:]
	h := held{digest: digest(encoded)}
	number, _, _ := strings.Cut(strings.TrimPrefix(header, stateMagic+" "), " ")
	var err error
	if h.version, err = strconv.ParseUint(number, 10, 64); err != nil || h.version > mostVersion {
		return held{}, errState
	}
	if header+"\n" != stateHeader(h.version, h.digest) {
		return held{}, errState
	}
	if h.set, err = decode(encoded); err != nil {
		return held{}, err
	}
	if h.set == nil {
		h.set = set{}
	}
	return h, nil
}
