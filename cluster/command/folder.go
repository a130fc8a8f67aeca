package command

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// The modes of files: what only their owner reads, what a group may read too, and what all may.
const (
	secretMode fs.FileMode = 0o600
	groupMode  fs.FileMode = 0o640
	publicMode fs.FileMode = 0o644
)

// A folder is where a verb makes files that nodes need, and keeps those that are there.
type folder struct {
	dir   string
	group int        // that may read secrets, -1 for none
	files []madeFile // what was done so far
}

// A madeFile is a file that a node needs.
type madeFile struct {
	File    string `json:"file"`
	Written bool   `json:"written"` // false: it existed and was kept
}

// path returns the path of a file of the folder.
func (f *folder) path(name string) string { return filepath.Join(f.dir, name) }

// has reports whether a file exists.
func (f *folder) has(name string) bool {
	_, err := os.Stat(f.path(name))
	return err == nil
}

// write writes a file unless it exists, and notes what it did.
func (f *folder) write(name string, mode fs.FileMode, content func() ([]byte, error)) error {
	path := f.path(name)
	if f.has(name) {
		f.files = append(f.files, madeFile{File: path})
		return nil
	}
	text, err := content()
	if err != nil {
		return err
	}
	if err := create(path, mode, text); err != nil {
		return err
	}
	if f.group >= 0 && mode == secretMode {
		if err := errors.Join(os.Chown(path, -1, f.group), os.Chmod(path, groupMode)); err != nil {
			return errors.Join(err, os.Remove(path)) // else a later run would keep what its group cannot read
		}
	}
	f.files = append(f.files, madeFile{path, true})
	return nil
}

// pair writes a certificate and its key unless both exist. That only one exists is an error.
func (f *folder) pair(name string, template, parent *x509.Certificate, key,
	parentKey *ecdsa.PrivateKey) error {
	keyFile := f.path(name + ".key")
	_, err := os.Stat(f.path(name + ".pem"))
	if _, keyErr := os.Stat(keyFile); (err == nil) != (keyErr == nil) {
		return fmt.Errorf("%s holds only one of %s.pem and %s.key; remove it, and both are made anew", f.dir, name,
			name)
	}
	if err := f.write(name+".key", secretMode, func() ([]byte, error) {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
	}); err != nil {
		return err
	}
	return f.write(name+".pem", secretMode, func() ([]byte, error) {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
	})
}

// print prints what was done.
func (f *folder) print(w io.Writer) {
	for _, made := range f.files {
		done := "kept   "
		if made.Written {
			done = "written"
		}
		fmt.Fprintln(w, done, made.File)
	}
}

// writeNew writes the file of the flag --out, which only its owner can read. A file that exists is an error.
func writeNew(name string, text []byte) error {
	err := create(name, secretMode, text)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("--out: %s exists and is kept", name)
	case err != nil:
		return fmt.Errorf("--out: %w", err)
	}
	return nil
}

// create writes a file that does not exist yet, whole or not at all.
func create(name string, mode fs.FileMode, text []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}
