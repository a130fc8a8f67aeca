package command

import (
	"fmt"
	"io"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/rules"
)

type dkimVerbs struct {
	New    dkimNewVerb    `cmd:"" help:"@dkim_new"`
	Rotate dkimRotateVerb `cmd:"" help:"@dkim_rotate"`
}

type dkimNewVerb struct {
	Domain   string `required:"" placeholder:"DOMAIN" help:"The signing domain, d=."`
	Selector string `required:"" placeholder:"NAME" help:"@dkim_new_selector"`
	Type     string `enum:"rsa,ed25519" default:"rsa" help:"@dkim_new_type"`
	Bits     int    `default:"2048" help:"@dkim_new_bits"`
	Out      string `required:"" placeholder:"FILE" help:"@dkim_new_out"`
	jsonFlag
}

// A published is the DNS record of a new key.
type published struct {
	Name    string   `json:"name"`
	Record  string   `json:"record"`
	Strings []string `json:"strings"` // what the TXT record is made of, of at most 255 octets each
	KeyFile string   `json:"key_file"`
}

func (v *dkimNewVerb) run(s streams) int {
	err := v.readNames()
	if err != nil {
		return fail(s, err)
	}
	p, err := v.make()
	if err != nil {
		return fail(s, err)
	}
	if v.JSON {
		printJSON(s.out, p)
		return exitOK
	}
	v.print(s.out, p)
	return exitOK
}

// readNames reads the domain and the selector, and makes A-labels of them.
func (v *dkimNewVerb) readNames() error {
	for _, name := range []struct {
		flag string
		text *string
	}{{"--domain", &v.Domain}, {"--selector", &v.Selector}} {
		canonical, ok := rules.ALabels(*name.text)
		if !ok {
			return usageError{fmt.Errorf("%s: %q is not a domain name", name.flag, *name.text)}
		}
		if !ascii.Is(*name.text) {
			*name.text = canonical
		}
	}
	return nil
}

func (v *dkimNewVerb) make() (*published, error) {
	algorithm := dkim.RSASHA256
	if v.Type == "ed25519" {
		algorithm = dkim.Ed25519SHA256
	}
	key, err := dkim.GenerateKey(algorithm, v.Bits)
	if err != nil {
		return nil, err
	}
	text, err := dkim.MarshalKey(key)
	if err != nil {
		return nil, err
	}
	record, err := dkim.KeyRecord(key.Public())
	if err != nil {
		return nil, err
	}
	if err := writeNew(v.Out, text); err != nil {
		return nil, err
	}
	return &published{
		Name: dkim.KeyName(v.Selector, v.Domain), Record: record, Strings: dkim.RecordStrings(record), KeyFile: v.Out,
	}, nil
}

func (v *dkimNewVerb) print(w io.Writer, p *published) {
	fmt.Fprintf(w,
		"; %s has the private key. Publish this record, and let %s name the key once it can be looked up "+
			"everywhere.\n", p.KeyFile, "dkim: or arc:")
	fmt.Fprintf(w,
		"; To change keys, add one with a selector of its own and leave the old record in place for two weeks "+
			"after the old key is out of use.\n")
	fmt.Fprintln(w, dkim.ZoneLine(v.Selector, v.Domain, p.Record))
}
