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
	"unicode"
	"unicode/utf8"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/srs"
)

// The labels that keep the keys derived from one secret apart.
const (
	labelLoopTag     = "millrace hop mark"
	labelLog         = "millrace log address"
	labelMark        = "millrace mark"
	labelTicket      = "millrace session ticket"
	labelScore       = "millrace score"
	labelFingerprint = "millrace key fingerprint"
	labelGossip      = "millrace gossip"
	labelOnce        = "millrace once"
	labelSubmission  = "millrace submission"
	labelMessageID   = "millrace log message-id"
)

// keySize is the length of a derived key in octets.
const keySize = 32

// srsKeys reads the keys that reverse-paths are rewritten with. The error is Problems.
func srsKeys(c *config.Config) ([][]byte, error) {
	data, err := os.ReadFile(string(c.SRS.KeyFile))
	if err != nil {
		return nil, c.WithLine("", "srs.key_file", err)
	}
	keys, err := srs.ParseKeys(bytes.NewReader(data))
	return keys, c.WithLine("", "srs.key_file", inFile(c.SRS.KeyFile, err))
}

// inFile names the file that *mail.LineErrors are about, and returns any other error as it is.
func inFile(file config.File, err error) error {
	var wrong *mail.LineErrors
	if errors.As(err, &wrong) {
		return wrong.In(string(file))
	}
	return err
}

// minSecret is the least length of a secret in octets.
const minSecret = 16

// A secret is what keys are derived from: the current one and, after it, the previous one if there is one.
type secret [][]byte

// readSecret reads a file with one key a line, the current one first. Keys after the second are ignored, as are blank
// lines and lines that begin with "#". The error is *mail.LineErrors, or the one of reading.
func readSecret(file config.File) (secret, error) {
	data, err := os.ReadFile(string(file))
	if err != nil {
		return nil, err
	}
	var s secret
	wrong := mail.LineErrors{File: string(file)}
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if why := secretFault(line); why != "" {
			wrong.Add(i+1, 1, why)
			break
		}
		if len(line) < minSecret {
			wrong.Add(i+1, 1, fmt.Sprintf("a key of at least %d octets is needed", minSecret))
			continue
		}
		s = append(s, []byte(line))
	}
	if len(s) == 0 && len(wrong.List) == 0 {
		wrong.Add(1, 1, "holds no key")
	}
	if err := wrong.Err(); err != nil {
		return nil, err
	}
	return s[:min(len(s), 2)], nil
}

// secretFault returns why a line is no secret but one of a file of another kind, which everybody may know; "" if it may
// be one.
func secretFault(line string) string {
	switch {
	case strings.HasPrefix(line, "\ufeff"):
		return "a byte order mark stands in front of it: save the file without it"
	case strings.HasPrefix(line, "-----BEGIN "):
		return "this is a file in PEM: a line of random characters is needed, as millrace key new and token new make it"
	case strings.ContainsFunc(line, unicode.IsControl), !utf8.ValidString(line):
		return "this is no text: a line of random characters is needed, as millrace key new and token new make it"
	}
	return ""
}

// loadSecret reads the secret that the configuration names, or makes one that lasts as long as the process.
func loadSecret(c *config.Config) (secret, error) {
	if file := c.SecretSource(); file != "" {
		return readSecret(file)
	}
	key := make([]byte, keySize)
	rand.Read(key) // never fails
	return secret{key}, nil
}

// derive returns one key of keySize octets per key of the secret, by HKDF with SHA-256 (RFC 5869).
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

// fingerprints returns eight hex digits per key of the secret. They tell keys apart and reveal nothing of them.
func (s secret) fingerprints() []string {
	prints := make([]string, len(s))
	for i := range s {
		key, err := hkdf.Key(sha256.New, s[i], nil, labelFingerprint, 4)
		if err != nil {
			continue // SHA-256 and 4 octets are never refused
		}
		prints[i] = hex.EncodeToString(key)
	}
	return prints
}

// Fingerprints returns the fingerprints of the keys in a file as cluster.key_file or secret_file name one: eight hex
// digits each, in the order of the file, of at most two keys. The error names the line.
func Fingerprints(file string) ([]string, error) {
	s, err := readSecret(config.File(file))
	if err != nil {
		return nil, err
	}
	return s.fingerprints(), nil
}
