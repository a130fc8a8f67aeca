package submission

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// What a new hash costs: 19 MiB and two passes of one thread, some 30 ms (OWASP, Password Storage).
const (
	newMemory, newPasses, newThreads = 19 << 10, 2, 1
	saltSize, sumSize                = 16, 32
)

// MaxPassword is the most octets of a password.
const MaxPassword = 255

// The bounds of what the file of users may ask of a login, so that a mistake in it cannot take the memory of the node.
const (
	maxMemory  = 256 << 10 // KiB
	maxPasses  = 16
	maxThreads = 16
	maxCost    = 14 // of bcrypt
)

var (
	errHashForm = errors.New("is no hash of argon2id or bcrypt: make it with millrace user hash")
	errHashCost = errors.New("is a hash that costs too much at each login")
)

// A hash is a password as the file of users has it: of argon2id if sum is set, else of bcrypt.
type hash struct {
	bcrypt         []byte
	memory, passes uint32 // KiB, rounds
	threads        uint8
	salt, sum      []byte
}

// Hash returns what stands for a password in the file of users.
func Hash(password string) string {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // it never fails
	sum := argon2.IDKey([]byte(password), salt, newPasses, newMemory, newThreads, sumSize)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, newMemory, newPasses, newThreads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(sum))
}

// parseHash reads a hash in the form of the PHC, or of bcrypt. No error repeats it.
func parseHash(s string) (h hash, err error) {
	if !strings.HasPrefix(s, "$argon2id$") {
		switch cost, err := bcrypt.Cost([]byte(s)); {
		case err != nil:
			return h, errHashForm
		case cost > maxCost:
			return h, errHashCost
		}
		return hash{bcrypt: []byte(s)}, nil
	}
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return h, errHashForm
	}
	n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.passes, &h.threads)
	if err != nil || n != 3 || fmt.Sprintf("m=%d,t=%d,p=%d", h.memory, h.passes, h.threads) != parts[3] {
		return h, errHashForm
	}
	h.salt, err = base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil || len(h.salt) < 8 || len(h.salt) > 64 {
		return h, errHashForm
	}
	h.sum, err = base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || len(h.sum) < 16 || len(h.sum) > 64 {
		return h, errHashForm
	}
	switch {
	case h.passes == 0 || h.threads == 0 || h.memory < 8*uint32(h.threads):
		return h, errHashForm
	case h.memory > maxMemory || h.passes > maxPasses || h.threads > maxThreads:
		return h, errHashCost
	}
	return h, nil
}

// isOf reports whether h stands for a password. It takes as long for one that is wrong.
func (h *hash) isOf(password string) bool {
	if h.sum == nil {
		return bcrypt.CompareHashAndPassword(h.bcrypt, []byte(password)) == nil
	}
	sum := argon2.IDKey([]byte(password), h.salt, h.passes, h.memory, h.threads, uint32(len(h.sum)))
	return subtle.ConstantTimeCompare(sum, h.sum) == 1
}
