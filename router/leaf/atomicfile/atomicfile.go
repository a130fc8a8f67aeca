// Package atomicfile writes files whole or not at all: a reader, also one after a crash, finds the old content or the
// new one. It refuses to know what is in them.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// A disk is how octets reach a disk.
type disk struct {
	write func(f *os.File, text []byte) (int, error)
	sync  func(f *os.File) error
}

func osDisk() disk { return disk{write: (*os.File).Write, sync: (*os.File).Sync} }

// Write writes a file that only its owner can read, and makes its folder if there is none. Only one writer of a file
// may run at a time: what a crash left of a write is written over by the next.
func Write(name string, text []byte) error { return osDisk().create(name, text) }

// Replace replaces the content of a file and keeps its mode and its owner. A symbolic link stays one, and the file
// behind it is replaced. A file that does not exist becomes one that only its owner can read. Several may run at a
// time.
func Replace(name string, text []byte) error { return osDisk().replace(name, text) }

func (d disk) create(name string, text []byte) error {
	folder := filepath.Dir(name)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(
		filepath.Join(folder, "."+filepath.Base(name)+"-new"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600,
	)
	if err != nil {
		return err
	}
	return d.finish(f, text, name)
}

func (d disk) replace(name string, text []byte) error {
	info, err := os.Stat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		if name, err = filepath.EvalSymlinks(name); err != nil {
			return err
		}
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // which only its owner can read
	if err != nil {
		return err
	}
	if info != nil {
		if err := takeOver(f, info); err != nil {
			return errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}
	return d.finish(f, text, name)
}

// takeOver sets a file to the owner and the mode of another.
func takeOver(f *os.File, info fs.FileInfo) error {
	if of, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(of.Uid), int(of.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(info.Mode().Perm()) // after Chown, which can take bits away
}

// finish writes a temporary file, has the disk take it, and renames it to the one that it replaces.
func (d disk) finish(f *os.File, text []byte, name string) error {
	_, err := d.write(f, text)
	if err == nil {
		err = d.sync(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	folder, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
