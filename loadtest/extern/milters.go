package extern

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
)

// EICAR is the text that each scanner for viruses takes for one. It is not written out: the scanners of machines that
// this file is kept on would find it.
func EICAR() string {
	return `X5O!P%@AP[4\PZX54(P^)7CC)7}$` + "EICAR-STANDARD-" + "ANTIVIRUS-TEST-FILE!$H+H*"
}

// StartClamav runs clamd with one signature, that of EICAR, and clamav-milter in front of it until the test ends, and
// returns the address of the milter. It refuses with the words "Virus found:" and the name.
func StartClamav(t testing.TB) (addr string) {
	t.Helper()
	clamd, front := Find(t, "clamd"), Find(t, "clamav-milter")
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "own.ndb"), "Own.Eicar:0:*:"+hex.EncodeToString([]byte(EICAR()))+"\n")
	scanner := serve(t, func(addr string) *exec.Cmd {
		host, port, _ := net.SplitHostPort(addr)
		config := filepath.Join(dir, "clamd.conf")
		writeFile(t, config, fmt.Sprintf("TCPSocket %s\nTCPAddr %s\nDatabaseDirectory %s\nTemporaryDirectory %s\n"+
			"Foreground yes\nOfficialDatabaseOnly no\nMaxThreads 2\n", port, host, dir, dir))
		return clamd.Command(context.Background(), "--config-file="+config)
	})
	return serve(t, func(addr string) *exec.Cmd {
		host, port, _ := net.SplitHostPort(addr)
		config := filepath.Join(dir, "milter.conf")
		writeFile(t, config, fmt.Sprintf("MilterSocket inet:%s@%s\nClamdSocket tcp:%s\nForeground yes\n"+
			"OnInfected Reject\nRejectMsg Virus found: %%v\nTemporaryDirectory %s\nMaxFileSize 100M\nAddHeader Add\n",
			port, host, scanner, dir))
		return front.Command(context.Background(), "--config-file="+config)
	})
}

// StartOpendkim runs an opendkim that signs mail of a domain with the selector s until the test ends, and returns its
// address.
func StartOpendkim(t testing.TB, domain string) (addr string) {
	t.Helper()
	opendkim := Find(t, "opendkim")
	dir := t.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key),
	})))
	return serve(t, func(addr string) *exec.Cmd {
		host, port, _ := net.SplitHostPort(addr)
		config := filepath.Join(dir, "opendkim.conf")
		writeFile(t, config, fmt.Sprintf("Mode s\nDomain %s\nSelector s\nKeyFile %s/key.pem\nRequireSafeKeys no\n"+
			"InternalHosts 0.0.0.0/0\nBackground no\nSocket inet:%s@%s\n", domain, dir, port, host))
		return opendkim.Command(context.Background(), "-f", "-x", config)
	})
}
