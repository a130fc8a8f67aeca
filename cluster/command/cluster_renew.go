package command

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/atomicfile"
)

type clusterRenewVerb struct {
	Dir   string   `arg:"" placeholder:"DIR" help:"The folder that cluster init wrote to."`
	Names []string `arg:"" optional:"" placeholder:"NAME" help:"The nodes; all of the folder if none is named."`
	jsonFlag
}

// A renewed is a certificate with a new end.
type renewed struct {
	File  string `json:"file"`
	Until string `json:"until"`
}

func (v *clusterRenewVerb) run(s streams) int {
	if err := v.renew(s); err != nil {
		return fail(s, err)
	}
	return exitOK
}

// renew writes a new certificate for each node. It makes all of them before it writes the first one.
func (v *clusterRenewVerb) renew(s streams) error {
	ca, caKey, err := readAuthority(filepath.Join(v.Dir, "ca.pem"), filepath.Join(v.Dir, "ca.key"))
	if err != nil {
		return err
	}
	names, err := v.nodes()
	if err != nil {
		return err
	}
	made := make([][]byte, len(names))
	var until time.Time
	for i, name := range names {
		file := filepath.Join(v.Dir, name+".pem")
		der, err := readPEM(file, "CERTIFICATE")
		if err != nil {
			return err
		}
		old, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := old.CheckSignatureFrom(ca); err != nil {
			return fmt.Errorf("%s is not of the authority in this folder: %w", file, err)
		}
		template := nodeTemplate(name, ca)
		until = template.NotAfter
		// For the key that the node has: its other half stays where it is.
		if der, err = x509.CreateCertificate(rand.Reader, template, ca, old.PublicKey, caKey); err != nil {
			return err
		}
		made[i] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	var all []renewed
	for i, name := range names {
		file := filepath.Join(v.Dir, name+".pem")
		if err := atomicfile.Replace(file, made[i]); err != nil {
			return err
		}
		all = append(all, renewed{file, until.UTC().Format(time.DateOnly)})
	}
	if v.JSON {
		printJSON(s.out, map[string]any{"renewed": all})
		return nil
	}
	for _, r := range all {
		fmt.Fprintln(s.out, "renewed", r.File, "until", r.Until)
	}
	fmt.Fprintln(s.out, "Copy each NAME.pem to its node and send that SIGHUP. The keys are the same.")
	return nil
}

// nodes returns the nodes to renew: those that were named, else all of the folder.
func (v *clusterRenewVerb) nodes() ([]string, error) {
	names := v.Names
	if len(names) == 0 {
		files, err := filepath.Glob(filepath.Join(v.Dir, "*.pem"))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			names = append(names, strings.TrimSuffix(filepath.Base(f), ".pem"))
		}
		names = slices.DeleteFunc(names, func(name string) bool { return name == "ca" })
	}
	for _, name := range names {
		if err := checkNode(name); err != nil {
			return nil, err
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s holds no certificate of a node", v.Dir)
	}
	return names, nil
}
