//go:build !openssl

package rsasign

import "crypto"

// Library names what signs with RSA keys in this build.
func Library() string { return "go" }

// Bind returns what signs with a key: the key itself. The error says why the library of this build is not used for it.
func Bind(key crypto.Signer) (crypto.Signer, error) { return key, nil }

// By names what signs with a key that Bind returned: "go" or "openssl".
func By(crypto.Signer) string { return "go" }
