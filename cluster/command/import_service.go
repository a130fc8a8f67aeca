package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/millrace/millrace/cluster/migrate"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/leaf/network"
)

type importCloudflareVerb struct {
	Files     []string `arg:"" optional:"" placeholder:"FILE" help:"@import_cloudflare_files"`
	Domain    string   `placeholder:"DOMAIN" help:"The zone; required without FILE."`
	TokenFile string   `placeholder:"FILE" help:"@import_token_file"`
	URL       string   `name:"url" default:"https://api.cloudflare.com/client/v4" help:"Where the API is."`
	converted
}

// cloudflareToken is the variable of the environment that Cloudflare's own programs take a token from.
const cloudflareToken = "CLOUDFLARE_API_TOKEN"

func (v *importCloudflareVerb) run(s streams) int {
	documents, err := v.read()
	if err != nil {
		return fail(s, err)
	}
	r, err := migrate.Cloudflare(documents, v.Domain)
	return v.show(s, r, err)
}

// read reads the files, or asks the API.
func (v *importCloudflareVerb) read() ([]migrate.Document, error) {
	if v.Domain != "" {
		domain, err := aName("--domain", v.Domain)
		if err != nil {
			return nil, err
		}
		v.Domain = domain
	}
	if len(v.Files) > 0 {
		return migrate.ReadDocuments(v.Files)
	}
	if v.Domain == "" {
		return nil, usageError{errors.New("--domain: is required where no file is named: the zone to ask the API " +
			"about")}
	}
	token := os.Getenv(cloudflareToken)
	if v.TokenFile != "" {
		text, err := os.ReadFile(v.TokenFile)
		if err != nil {
			return nil, err
		}
		token = string(text)
	}
	if token = strings.TrimSpace(token); token == "" {
		return nil, usageError{fmt.Errorf("--token-file: is required, or %s in the environment: a token that may read "+
			"Email Routing of the zone", cloudflareToken)}
	}
	ctx := context.Background()
	ask, done, err := askAPI(v.URL, http.Header{"Authorization": {"Bearer " + token}})
	if err != nil {
		return nil, err
	}
	defer done()
	return migrate.FetchCloudflare(ctx, ask, v.Domain)
}

// maxAnswer is the most octets of an answer of an API.
const maxAnswer = 8 << 20

// askAPI returns what asks an API below a URL, with fields in each request, and what ends it. The URL is the
// administrator's own, so that an address in it may be private.
func askAPI(base string, fields http.Header) (ask migrate.Ask, done func(), err error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, nil, usageError{errors.New("--url: is not a URL")}
	}
	c := hook.Config{}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		c.Private = []netip.Prefix{network.Host(addr)}
	}
	if err := hook.CheckURL(base, c.Private); err != nil {
		return nil, nil, usageError{fmt.Errorf("--url: %w", err)}
	}
	if c.Resolver, err = dns.New(dns.Config{}); err != nil {
		return nil, nil, err
	}
	client, err := hook.New(c)
	if err != nil {
		return nil, nil, err
	}
	done = func() {
		client.Close()
		c.Resolver.Close()
	}
	return func(ctx context.Context, path string) (int, []byte, error) {
		answer, err := client.Do(ctx, hook.Request{
			Method: http.MethodGet, URL: strings.TrimSuffix(base, "/") + path, Header: fields, Limit: maxAnswer,
		})
		return answer.Status, answer.Body, err
	}, done, nil
}

type importImprovMXVerb struct {
	Files  []string `arg:"" placeholder:"FILE" help:"@import_improvmx_files"`
	Domain string   `required:"" placeholder:"DOMAIN" help:"The domain whose aliases they are."`
	converted
}

func (v *importImprovMXVerb) run(s streams) int {
	domain, err := aName("--domain", v.Domain)
	if err != nil {
		return fail(s, err)
	}
	documents, err := migrate.ReadDocuments(v.Files)
	if err != nil {
		return fail(s, err)
	}
	r, err := migrate.ImprovMX(documents, domain)
	return v.show(s, r, err)
}

type importAddyVerb struct {
	Files []string `arg:"" placeholder:"FILE" help:"@import_addy_files"`
	To    string   `required:"" placeholder:"ADDRESS" help:"@import_addy_to"`
	converted
}

func (v *importAddyVerb) run(s streams) int {
	documents, err := migrate.ReadDocuments(v.Files)
	if err != nil {
		return fail(s, err)
	}
	r, err := migrate.Addy(documents, v.To)
	return v.show(s, r, err)
}

type importForwardEmailVerb struct {
	Domain string   `arg:"" placeholder:"DOMAIN" help:"The domain whose records they are."`
	File   string   `arg:"" optional:"" placeholder:"FILE" help:"@import_forward_email_file"`
	DNS    []string `name:"dns" placeholder:"ADDRESS:PORT" help:"@dns_servers"`
	converted
}

func (v *importForwardEmailVerb) run(s streams) int {
	domain, err := aName("DOMAIN", v.Domain)
	if err != nil {
		return fail(s, err)
	}
	records, err := v.records(s, domain)
	if err != nil {
		return fail(s, err)
	}
	r, err := migrate.ForwardEmail(domain, records)
	return v.show(s, r, err)
}

// records returns the texts of the TXT records, of a file or of the DNS.
func (v *importForwardEmailVerb) records(s streams, domain string) (all []migrate.Text, err error) {
	switch v.File {
	case "":
		r, err := dns.New(dns.Config{Servers: v.DNS})
		if err != nil {
			return nil, usageError{fmt.Errorf("--dns: %w", err)}
		}
		defer r.Close()
		texts, _, err := r.LookupTXT(context.Background(), domain)
		for _, text := range texts {
			all = append(all, migrate.Text{Text: text, At: migrate.Note{File: domain, Field: "TXT"}})
		}
		return all, err
	case "-":
		text, err := io.ReadAll(s.in)
		return migrate.ZoneTexts(migrate.Document{Name: "-", Text: text}), err
	}
	documents, err := migrate.ReadDocuments([]string{v.File})
	if err != nil {
		return nil, err
	}
	return migrate.ZoneTexts(documents[0]), nil
}
