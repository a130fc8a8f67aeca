package command

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node"
	"github.com/millrace/millrace/cluster/node/doctor"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// initial are the configuration and the rules that init writes.
//
//go:embed initial
var initial embed.FS

// configName is the name of the configuration in the folder of init.
const configName = "millrace.yaml"

type initVerb struct {
	Dir        string       `arg:"" placeholder:"DIR" help:"The folder to write to, such as /etc/millrace."`
	Domain     string       `required:"" placeholder:"DOMAIN" help:"The domain whose mail is taken."`
	To         string       `required:"" placeholder:"TARGET" help:"@init_to"`
	Hostname   string       `placeholder:"NAME" help:"@init_hostname"`
	Postmaster string       `placeholder:"ADDRESS" help:"@init_postmaster"`
	IP         []netip.Addr `name:"ip" placeholder:"ADDRESS" help:"@init_ip"`
	Group      string       `placeholder:"NAME" help:"@init_group"`
	jsonFlag
}

// A start is what the files of init are made of.
type start struct {
	File, Domain, To, Hostname, Postmaster, SRS string
}

func (v *initVerb) run(s streams) int {
	if err := v.init(s); err != nil {
		return fail(s, err)
	}
	return exitOK
}

func (v *initVerb) init(s streams) error {
	st, err := v.read()
	if err != nil {
		return err
	}
	f := folder{dir: v.Dir}
	if f.group, err = groupOf(v.Group); err != nil {
		return err
	}
	if err := f.fill(st); err != nil {
		return err
	}
	cfg, err := config.Load(st.File)
	if err != nil {
		return err
	}
	warnings, err := node.Check(cfg, nil)
	if err != nil {
		return err
	}
	addrs, ours := v.IP, false
	if len(addrs) == 0 {
		addrs, ours = publicAddrs(), true
	}
	records, err := doctor.Records(cfg, []string{st.Domain}, addrs)
	if err != nil {
		return err
	}
	if v.JSON {
		printJSON(s.out, map[string]any{"files": f.files, "records": records, "next": nextCommands(st)})
		return nil
	}
	f.print(s.out)
	for _, w := range warnings {
		fmt.Fprintf(s.err, "warning: %s\n", w)
	}
	printRecords(s.out, records)
	v.printAdvice(s.out, cfg, st, addrs, ours)
	return nil
}

// read reads the flags.
func (v *initVerb) read() (start, error) {
	domain, err := aName("--domain", v.Domain)
	if err != nil {
		return start{}, err
	}
	st := start{
		File: filepath.Join(v.Dir, configName), Domain: domain, To: v.To, Hostname: "mx1." + domain,
		Postmaster: v.Postmaster, SRS: "srs." + domain,
	}
	if v.Hostname != "" {
		if st.Hostname, err = aName("--hostname", v.Hostname); err != nil {
			return start{}, err
		}
	}
	flag := "--postmaster"
	if st.Postmaster == "" && !strings.Contains(v.To, "://") {
		st.Postmaster, flag = v.To, "--to"
	}
	if st.Postmaster == "" {
		return start{}, usageError{errors.New("--postmaster: is required where --to is a host: the address of a " +
			"person in another domain")}
	}
	return st, st.validate(flag)
}

// groupOf returns the number of a group of this machine, -1 for none.
func groupOf(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return -1, usageError{fmt.Errorf("--group: this machine has no group %q", name)}
	}
	return strconv.Atoi(g.Gid)
}

// aName returns a domain name of a flag in A-labels.
func aName(flag, name string) (string, error) {
	canonical, ok := rules.ALabels(strings.TrimSuffix(name, "."))
	switch {
	case !ok:
		why := rules.DomainMistake(name)
		if why == "" {
			why = "is not a domain name"
		}
		return "", usageError{fmt.Errorf("%s: %q: %s", flag, name, why)}
	case !strings.Contains(canonical, "."):
		return "", usageError{fmt.Errorf("%s: %q is a single label: write the whole name", flag, name)}
	}
	return canonical, nil
}

// validate returns what is wrong with the addresses before any file is written. flag is where the postmaster comes
// from.
func (st *start) validate(flag string) error {
	if strings.ContainsAny(st.To, " \t\r\n,#") {
		return usageError{fmt.Errorf("--to: %q: one target stands here; routes.txt takes more", st.To)}
	}
	postmaster, err := mail.ParsePath(st.Postmaster, true)
	if err != nil || postmaster.Domain == "" {
		return usageError{fmt.Errorf("%s: %q is not an address", flag, st.Postmaster)}
	}
	if d, _ := rules.ALabels(postmaster.Domain); d == st.Domain {
		return usageError{fmt.Errorf("%s: %s is in %s: mail about this node is to reach a person by another "+
			"way", flag, st.Postmaster, st.Domain)}
	}
	_, err = rules.Parse("--to", strings.NewReader("@"+st.Domain+" "+st.To+"\n"), rules.Config{
		Postmaster: postmaster, Own: []string{st.Hostname, st.SRS},
	})
	if err != nil {
		return usageError{fmt.Errorf("--to: %s", reasonsOf(err))}
	}
	return nil
}

// reasonsOf returns what is wrong with rules without the places, which are in no file.
func reasonsOf(err error) string {
	var wrong *rules.Errors
	if !errors.As(err, &wrong) || len(wrong.List) == 0 {
		return err.Error()
	}
	return wrong.List[0].Reason
}

// fill writes all files that are not there.
func (f *folder) fill(st start) error {
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{configName, "routes.txt"} {
		if err := f.write(name, publicMode, func() ([]byte, error) { return st.text(name) }); err != nil {
			return err
		}
	}
	for _, name := range []string{"secret", "srs.key", "admin.token"} {
		if err := f.write(name, secretMode, func() ([]byte, error) { return newSecret(), nil }); err != nil {
			return err
		}
	}
	for _, key := range []struct {
		name      string
		algorithm dkim.Algorithm
	}{{"arc.pem", dkim.RSASHA256}, {"dkim-rsa.pem", dkim.RSASHA256}, {"dkim-ed25519.pem", dkim.Ed25519SHA256}} {
		made := func() ([]byte, error) { return newSigningKey(key.algorithm) }
		if err := f.write(key.name, secretMode, made); err != nil {
			return err
		}
	}
	return f.certificate(st.Hostname)
}

// text returns one of the initial files.
func (st *start) text(name string) ([]byte, error) {
	made, err := template.ParseFS(initial, "initial/"+name)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	err = made.Execute(&text, st)
	return text.Bytes(), err
}

// signingBits is the size of a new RSA key: every verifier takes it (RFC 8301 section 3.2).
const signingBits = 2048

// newSigningKey returns a new private key that signs.
func newSigningKey(a dkim.Algorithm) ([]byte, error) {
	key, err := dkim.GenerateKey(a, signingBits)
	if err != nil {
		return nil, err
	}
	return dkim.MarshalKey(key)
}

// certificate writes a certificate that says of itself that it is for name, and its key.
func (f *folder) certificate(name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	made := certificateFor(name, nodeLife)
	made.DNSNames = []string{name}
	made.KeyUsage = x509.KeyUsageDigitalSignature
	made.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	return f.pair("cert", made, made, key, key)
}

// publicAddrs returns the addresses of this host that others reach, as far as its interfaces tell.
func publicAddrs() (addrs []netip.Addr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().IsGlobalUnicast() {
			continue
		}
		if kind, _ := network.Special(p.Addr()); kind == "" {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs
}

// nextCommands are what is to be done when the records are published.
func nextCommands(st start) []string {
	return []string{
		"millrace check -c " + st.File + " --connect",
		"millrace serve -c " + st.File,
		"millrace explain -c " + st.File + " --ip 192.0.2.1 --from someone@example.com --to info@" + st.Domain,
	}
}

// printAdvice prints what the records do not say, and what is to be done next.
func (v *initVerb) printAdvice(w io.Writer, cfg *config.Config, st start, addrs []netip.Addr, ours bool) {
	fmt.Fprintln(w)
	switch {
	case len(addrs) == 0:
		fmt.Fprintf(w, "This host has no public address of its own. Run it again with --ip and the address that "+
			"others see, for the records of %s.\n", cfg.Hostname)
	case ours:
		fmt.Fprintln(w, "The addresses are those of this host. --ip names others.")
	}
	fmt.Fprintf(w, "SPF and DMARC of %s: keep those that are there. What is forwarded leaves as %s.\n"+
		"An MTA-STS policy is not served, so do not publish one.\n", st.Domain, cfg.SRS.Domain)
	if !hosts(cfg, st.Domain) {
		fmt.Fprintf(w, "%s was there and does not serve %s. Add to the rules: @%s %s\n", st.File, st.Domain,
			st.Domain, st.To)
	}
	fmt.Fprintln(w, "\nThen:")
	for _, c := range nextCommands(st) {
		fmt.Fprintln(w, " ", c)
	}
}

// hosts reports whether the rules of a configuration, which node.Check read without an error, host a domain.
func hosts(cfg *config.Config, domain string) bool {
	postmaster, err := mail.ParsePath(cfg.Postmaster, true)
	if err != nil {
		return false
	}
	table, err := rules.Load([]string{string(cfg.Routes)}, rules.Config{Postmaster: postmaster})
	return err == nil && table.Hosted(domain)
}
