// Package rsasign has RSA signatures made by OpenSSL where the program was built with the tag openssl, and by Go
// elsewhere and for all other keys. OpenSSL makes the same signatures in a third of the time. It owns the calls into C,
// and refuses to know what is signed.
package rsasign
