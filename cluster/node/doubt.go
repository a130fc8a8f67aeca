package node

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/config"
)

// doubts returns what is doubtful about the files that the configuration names. A node serves nonetheless.
func doubts(c *config.Config, now time.Time) []config.Problem {
	return append(append(certificateDoubts(c, now), keyDoubts(c)...), logDoubts(c)...)
}

// logDoubts returns what keeps the log from its syslog daemon now. The daemon may start later than the node.
func logDoubts(c *config.Config) []config.Problem {
	network, name := c.Log.Syslog()
	if network != "unixgram" {
		return nil
	}
	switch info, err := os.Stat(name); {
	case err != nil:
		return []config.Problem{c.Problem("log.output", name+" is not there now: lines wait until a daemon makes it")}
	case info.Mode().Type() != os.ModeSocket:
		return []config.Problem{c.Problem("log.output", name+" is no socket")}
	}
	return nil
}

// certificateDoubts returns what senders that verify would say of our certificate. What cannot be read has an error of
// its own.
func certificateDoubts(c *config.Config, now time.Time) (warnings []config.Problem) {
	if c.TLS == nil {
		return nil
	}
	text, err := os.ReadFile(string(c.TLS.Cert))
	if err != nil {
		return nil
	}
	warn := func(why string) { warnings = append(warnings, c.Problem("tls.cert", string(c.TLS.Cert)+" "+why)) }
	first := true
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		what := ""
		if !first {
			what = "has a certificate in its chain, of " + cert.Subject.CommonName + ", that "
		}
		if why := outsideLife(cert, now); why != "" {
			warn(what + why)
		}
		if first && cert.VerifyHostname(c.Hostname) != nil {
			warn(namesOf(cert) + ", not for hostname, " + c.Hostname)
		}
		first = false
	}
	return warnings
}

// outsideLife returns what is wrong with the time now for a certificate, or is so soon.
func outsideLife(cert *x509.Certificate, now time.Time) string {
	date := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	switch {
	case now.Before(cert.NotBefore):
		return "is not valid before " + date(cert.NotBefore)
	case now.After(cert.NotAfter):
		return "ended on " + date(cert.NotAfter)
	case cert.NotAfter.Sub(now) < endsSoon:
		return "ends on " + date(cert.NotAfter)
	}
	return ""
}

// namesOf returns whom a certificate is for.
func namesOf(cert *x509.Certificate) string {
	names := cert.DNSNames
	for _, a := range cert.IPAddresses {
		names = append(names, a.String())
	}
	if len(names) == 0 {
		return "is for no name (a common name does not count)"
	}
	return "is for " + strings.Join(names, ", ")
}

// keyDoubts returns which secret files every user of this machine can read or change.
func keyDoubts(c *config.Config) (warnings []config.Problem) {
	for _, s := range secretFiles(c) {
		info, err := os.Stat(string(s.file))
		if s.file == "" || err != nil || info.Mode().Perm()&0o007 == 0 {
			continue
		}
		warnings = append(warnings, c.Problem(s.field, fmt.Sprintf(
			"every user of this machine has access to %s (mode %04o): chmod o= %s", s.file, info.Mode().Perm(),
			s.file)))
	}
	return warnings
}

// A secretFile is a file that only the node is to read, and the field that names it.
type secretFile struct {
	field string
	file  config.File
}

// secretFiles returns the files of keys, passwords and tokens.
func secretFiles(c *config.Config) []secretFile {
	files := []secretFile{{"secret_file", c.SecretFile}, {"egress.credentials_file", c.Egress.CredentialsFile}}
	for i := range c.Listen {
		files = append(files, secretFile{fmt.Sprintf("listen[%d].users_file", i), c.Listen[i].UsersFile})
	}
	if c.TLS != nil {
		files = append(files, secretFile{"tls.key", c.TLS.Key})
	}
	if c.SRS != nil {
		files = append(files, secretFile{"srs.key_file", c.SRS.KeyFile})
	}
	if c.ARC != nil {
		files = append(files, secretFile{"arc.key_file", c.ARC.KeyFile})
	}
	if d := c.DKIM; d != nil {
		for i, s := range d.Relay {
			files = append(files, secretFile{fmt.Sprintf("dkim.relay[%d].key_file", i), s.KeyFile})
		}
		for i, s := range d.Domains {
			files = append(files, secretFile{fmt.Sprintf("dkim.domains[%d].key_file", i), s.KeyFile})
		}
	}
	if c.Events != nil {
		for i, r := range c.Events.Receivers {
			files = append(files, secretFile{fmt.Sprintf("events.receivers[%d].secret_file", i), r.SecretFile})
		}
	}
	if k := c.Cluster; k != nil {
		files = append(files, secretFile{"cluster.key_file", k.KeyFile}, secretFile{"cluster.tls.key", k.TLS.Key})
	}
	if c.Admin != nil {
		files = append(files, secretFile{"admin.token_file", c.Admin.TokenFile})
	}
	return files
}
