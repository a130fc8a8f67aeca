package command

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/router/mail"
)

type clusterVerbs struct {
	Init   clusterInitVerb   `cmd:"" help:"@cluster_init"`
	Renew  clusterRenewVerb  `cmd:"" help:"@cluster_renew"`
	Status clusterStatusVerb `cmd:"" help:"Ask a running node what it knows of its cluster."`
	Drain  clusterDrainVerb  `cmd:"" help:"@cluster_drain"`
	Keys   clusterKeysVerbs  `cmd:"" help:"Change the secret of the cluster, a step at a time."`
}

type clusterInitVerb struct {
	Dir   string   `arg:"" placeholder:"DIR" help:"The folder to write to."`
	Names []string `arg:"" placeholder:"NAME" help:"The nodes' names, as in cluster.name."`
	jsonFlag

	folder folder
}

// authorityLife and nodeLife are how long the certificates of an authority and of a node are valid.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	nodeLife      = 365 * 24 * time.Hour
)

func (v *clusterInitVerb) run(s streams) int {
	if err := v.init(s); err != nil {
		return fail(s, err)
	}
	return exitOK
}

func (v *clusterInitVerb) init(s streams) error {
	for i := range v.Names {
		v.Names[i] = *inALabels(&v.Names[i])
		if err := checkNode(v.Names[i]); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(v.Dir, 0o700); err != nil {
		return err
	}
	v.folder = folder{dir: v.Dir, group: -1}
	if err := v.folder.write("gossip.key", secretMode, func() ([]byte, error) { return newSecret(), nil }); err != nil {
		return err
	}
	ca, caKey, err := v.authority()
	if err != nil {
		return err
	}
	for _, name := range v.Names {
		if err := v.node(name, ca, caKey); err != nil {
			return err
		}
	}
	if v.JSON {
		printJSON(s.out, map[string]any{"files": v.folder.files})
		return nil
	}
	v.folder.print(s.out)
	fmt.Fprintf(s.out,
		"Each node NAME needs gossip.key, ca.pem, NAME.pem and NAME.key. Keep ca.key off the nodes: who has it can "+
			"join.\n")
	return nil
}

// checkNode returns an error unless name can be that of a node, whose files stand beside those of the cluster.
func checkNode(name string) error {
	if !mail.IsDomain(name) || name == "ca" || name == "gossip" {
		return usageError{fmt.Errorf("%q cannot be the name of a node", name)}
	}
	return nil
}

// newSecret returns a random line that keys can be derived from.
func newSecret() []byte {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return append(base64.StdEncoding.AppendEncode(nil, b), '\n')
}

// authority returns the authority of the cluster. It makes one if the folder has no authority.
func (v *clusterInitVerb) authority() (*x509.Certificate, *ecdsa.PrivateKey, error) {
	certFile, keyFile := filepath.Join(v.Dir, "ca.pem"), filepath.Join(v.Dir, "ca.key")
	_, certErr := os.Stat(certFile)
	_, keyErr := os.Stat(keyFile)
	if errors.Is(certErr, fs.ErrNotExist) != errors.Is(keyErr, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s holds only one of ca.pem and ca.key: both are needed to add a node", v.Dir)
	}
	if errors.Is(certErr, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		template := certificateFor("millrace cluster", authorityLife)
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage = x509.KeyUsageCertSign
		if err := v.folder.pair("ca", template, template, key, key); err != nil {
			return nil, nil, err
		}
	}
	return readAuthority(certFile, keyFile)
}

// readAuthority reads a certificate and its key, which have to belong together.
func readAuthority(certFile, keyFile string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	der, err := readPEM(certFile, "CERTIFICATE")
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	if der, err = readPEM(keyFile, "PRIVATE KEY"); err != nil {
		return nil, nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s is not the key of %s", keyFile, certFile)
	}
	return cert, key, nil
}

// readPEM returns the content of the first PEM block of a file, which has to be of that kind.
func readPEM(file, kind string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s: holds no %s", file, kind)
	}
	return block.Bytes, nil
}

// node makes the certificate of a node, which serves at both ends of a link between nodes.
func (v *clusterInitVerb) node(name string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return v.folder.pair(name, nodeTemplate(name, ca), ca, key, caKey)
}

// nodeTemplate returns the template of a node's certificate, which ends with that of the authority at the latest.
func nodeTemplate(name string, ca *x509.Certificate) *x509.Certificate {
	template := certificateFor(name, nodeLife)
	if ca.NotAfter.Before(template.NotAfter) {
		template.NotAfter = ca.NotAfter
	}
	template.DNSNames = []string{name}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return template
}

// certificateFor returns the template of a certificate with that name, valid for that long.
func certificateFor(name string, life time.Duration) *x509.Certificate {
	serial := make([]byte, 16)
	rand.Read(serial)
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[1:]),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(life),
	}
}
