//go:build openssl

package rsasign

/*
#cgo LDFLAGS: -lcrypto
#cgo noescape rsasign_load
#cgo nocallback rsasign_load
#cgo noescape rsasign_sign
#cgo nocallback rsasign_sign

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

// rsasign_load reads a private key in PKCS #1. It returns NULL if OpenSSL takes it for none.
static EVP_PKEY *rsasign_load(const unsigned char *der, long n) {
	EVP_PKEY *key = d2i_PrivateKey(EVP_PKEY_RSA, NULL, &der, n);
	if (key == NULL)
		ERR_clear_error();
	return key;
}

// rsasign_sign signs a digest of SHA-256 by PKCS #1 v1.5. It returns 1 if the signature fills all n octets of out.
static int rsasign_sign(EVP_PKEY *key, const unsigned char *digest, unsigned char *out, size_t n) {
	size_t made = n;
	EVP_PKEY_CTX *c = EVP_PKEY_CTX_new(key, NULL);
	int done = c != NULL && EVP_PKEY_sign_init(c) == 1 && EVP_PKEY_CTX_set_rsa_padding(c, RSA_PKCS1_PADDING) == 1 &&
		EVP_PKEY_CTX_set_signature_md(c, EVP_sha256()) == 1 && EVP_PKEY_sign(c, out, &made, digest, 32) == 1 &&
		made == n;
	EVP_PKEY_CTX_free(c);
	if (!done)
		ERR_clear_error();
	return done;
}
*/
import "C"

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"runtime"
	"unsafe"
)

// Library names what signs with RSA keys in this build, with its version.
func Library() string { return C.GoString(C.OpenSSL_version(C.OPENSSL_VERSION)) }

// A signer signs with an RSA key by OpenSSL. It is safe for concurrent use. A call takes a thread for as long as it
// lasts, and keeps no other goroutine from running.
type signer struct {
	key  *rsa.PrivateKey
	held *C.EVP_PKEY // the same key in memory of C, until s is garbage
}

// Bind returns what signs with a key: OpenSSL with an RSA key of which it makes the same signature as Go does, the key
// itself otherwise. The error says why OpenSSL is not used for an RSA key.
func Bind(key crypto.Signer) (crypto.Signer, error) {
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		return key, nil
	}
	der := x509.MarshalPKCS1PrivateKey(private)
	defer clear(der)
	s, err := load(private, der)
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return key, err
	}
	return s, nil
}

// By names what signs with a key that Bind returned: "go" or "openssl".
func By(key crypto.Signer) string {
	if _, ok := key.(*signer); ok {
		return "openssl"
	}
	return "go"
}

// load hands OpenSSL a key, which der is in PKCS #1. It is wiped and freed when the signer is garbage.
func load(key *rsa.PrivateKey, der []byte) (*signer, error) {
	held := C.rsasign_load((*C.uchar)(unsafe.SliceData(der)), C.long(len(der)))
	if held == nil {
		return nil, errors.New("OpenSSL does not read the key")
	}
	s := &signer{key, held}
	runtime.AddCleanup(s, func(held *C.EVP_PKEY) { C.EVP_PKEY_free(held) }, held)
	return s, nil
}

// check compares a signature with Go's: those of PKCS #1 v1.5 are the same whenever they are made.
func (s *signer) check() error {
	digest := sha256.Sum256([]byte("the same signature by both"))
	want, err := s.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	got, ok := s.sign(digest[:])
	switch {
	case !ok:
		return errors.New("OpenSSL does not sign with the key")
	case !bytes.Equal(got, want):
		return errors.New("OpenSSL makes another signature than Go")
	}
	return nil
}

// Public returns the public key.
func (s *signer) Public() crypto.PublicKey { return s.key.Public() }

// Sign signs a digest. What is not a digest of SHA-256 for PKCS #1 v1.5 Go signs, and what OpenSSL does not sign.
func (s *signer) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == crypto.SHA256 && len(digest) == sha256.Size {
		if signature, ok := s.sign(digest); ok {
			return signature, nil
		}
	}
	return s.key.Sign(random, digest, opts)
}

// sign signs a digest of SHA-256 by PKCS #1 v1.5.
func (s *signer) sign(digest []byte) ([]byte, bool) {
	out := make([]byte, s.key.Size())
	done := C.rsasign_sign(s.held, (*C.uchar)(unsafe.SliceData(digest)), (*C.uchar)(unsafe.SliceData(out)),
		C.size_t(len(out)))
	runtime.KeepAlive(s)
	return out, done == 1
}
