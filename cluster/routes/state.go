package routes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The files of the state folder.
const (
	savedName = "rules"       // the shared set of the highest version seen
	filesName = "rules-files" // the baseline of the files
	tempName  = ".rules-new"  // a file that is being written
)

// stateMagic begins each file. The version of the set, its digest, a line feed and the set follow.
const stateMagic = "millrace rules 1"

// A folder is the rules in the state folder. The zero value keeps nothing.
type folder struct {
	path     string
	readOnly bool // nothing is kept, as with no path
	// writeTo and sync replace the methods of os.File in tests. nil means these.
	writeTo func(f *os.File, b []byte) error
	sync    func(f *os.File) error
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
	if err := os.MkdirAll(f.path, 0o700); err != nil {
		return err
	}
	temp := filepath.Join(f.path, tempName)
	if err := f.write(temp, stateHeader(version, digest(encoded)), encoded); err != nil {
		_ = os.Remove(temp) // it may not exist
		return err
	}
	if err := os.Rename(temp, filepath.Join(f.path, name)); err != nil {
		_ = os.Remove(temp) // the error of Rename is the one to return
		return err
	}
	dir, err := os.Open(f.path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// write writes a file and syncs it to disk.
func (f folder) write(temp, header string, encoded []byte) error {
	writeTo, sync := f.writeTo, f.sync
	if writeTo == nil {
		writeTo = func(out *os.File, b []byte) error {
			_, err := out.Write(b)
			return err
		}
	}
	if sync == nil {
		sync = (*os.File).Sync
	}
	out, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = writeTo(out, []byte(header))
	if err == nil {
		err = writeTo(out, encoded)
	}
	if err == nil {
		err = sync(out)
	}
	return errors.Join(err, out.Close())
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
