package node

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/millrace/millrace/router/srs"
)

// The labels that keep the keys made of one secret apart.
const (
	labelHop    = "millrace hop mark"
	labelLog    = "millrace log address"
	labelMark   = "millrace mark"
	labelTicket = "millrace session ticket"
	labelScore  = "millrace score"
	labelPrint  = "millrace key fingerprint"
)

// keySize is the length of a derived key in octets.
const keySize = 32

// secretSource is the file that keys are derived from, "" when the configuration names none.
func (c *Config) secretSource() File {
	switch {
	case c.SecretFile != "":
		return c.SecretFile
	case c.Cluster != nil && c.Cluster.KeyFile != "":
		return c.Cluster.KeyFile
	case c.SRS != nil:
		return c.SRS.KeyFile
	}
	return ""
}

// srsKeys reads the keys that reverse-paths are rewritten with. The error is Problems.
func (c *Config) srsKeys() ([][]byte, error) {
	data, err := os.ReadFile(string(c.SRS.KeyFile))
	if err != nil {
		return nil, Problems{c.problem("srs.key_file", err.Error())}
	}
	keys, err := srs.ParseKeys(bytes.NewReader(data))
	var wrong *srs.KeyError
	if errors.As(err, &wrong) {
		return nil, Problems{{File: string(c.SRS.KeyFile), Line: wrong.Line, Message: wrong.Reason}}
	}
	return keys, err
}

// minSecret is the least length of a secret in octets.
const minSecret = 16

// A secret is what keys are derived from, the current one first.
type secret [][]byte

// readSecret reads a key a line, first current, second previous. Blank lines and lines that begin with "#" do not
// count.
func readSecret(file File) (secret, error) {
	data, err := os.ReadFile(string(file))
	if err != nil {
		return nil, err
	}
	var s secret
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if len(line) < minSecret {
			return nil, fmt.Errorf("%s:%d: a key of at least %d octets is needed", file, i+1, minSecret)
		}
		s = append(s, []byte(line))
	}
	if len(s) == 0 {
		return nil, fmt.Errorf("%s: holds no key", file)
	}
	return s[:min(len(s), 2)], nil
}

// fingerprints tell secrets apart without giving anything away of them.
func (s secret) fingerprints() []string {
	prints := make([]string, len(s))
	for i := range s {
		key, err := hkdf.Key(sha256.New, s[i], nil, labelPrint, 4)
		if err != nil {
			continue // SHA-256 and 4 octets are never refused
		}
		prints[i] = hex.EncodeToString(key)
	}
	return prints
}

// Fingerprints tells the keys of a file apart that cluster.key_file or secret_file names, in their order, eight hex
// digits each.
func Fingerprints(file string) ([]string, error) {
	s, err := readSecret(File(file))
	if err != nil {
		return nil, err
	}
	return s.fingerprints(), nil
}

// loadSecret reads the node's secret, or makes one that lasts as long as the process.
func (c *Config) loadSecret() (secret, error) {
	if file := c.secretSource(); file != "" {
		return readSecret(file)
	}
	key := make([]byte, keySize)
	rand.Read(key) // never fails
	return secret{key}, nil
}

// derive gives one key per key of the secret, by HKDF with SHA-256 (RFC 5869).
func (s secret) derive(label string) ([][]byte, error) {
	keys := make([][]byte, len(s))
	for i := range s {
		key, err := hkdf.Key(sha256.New, s[i], nil, label, keySize)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", label, err)
		}
		keys[i] = key
	}
	return keys, nil
}
