package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// Formats are the forms that Write knows.
const Formats = "bind,nsupdate,route53,terraform,cloudflare,json"

// A set is all records of one name and type.
type set struct {
	name, kind string
	records    []Record
}

// setsOf returns records by name and type, in their order. PTR records stand in other zones, and what is not known is
// no record: both are left out.
func setsOf(records []Record) (sets []*set) {
	byKey := make(map[string]*set)
	for _, r := range records {
		if r.Type == "PTR" || r.IsPlaceholder() {
			continue
		}
		key := r.Name + " " + r.Type
		if byKey[key] == nil {
			byKey[key] = &set{name: r.Name, kind: r.Type}
			sets = append(sets, byKey[key])
		}
		byKey[key].records = append(byKey[key].records, r)
	}
	return sets
}

// Write writes records in one of Formats but bind, with a TTL in seconds.
func Write(w io.Writer, format string, records []Record, ttl int) error {
	switch format {
	case "nsupdate":
		return writeUpdate(w, records, ttl)
	case "route53":
		return writeJSON(w, route53(records, ttl))
	case "terraform":
		return writeTerraform(w, records, ttl)
	case "cloudflare":
		return writeJSON(w, cloudflare(records, ttl))
	case "json":
		return writeJSON(w, map[string]any{"records": records})
	}
	return fmt.Errorf("no format %q", format)
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// writeUpdate writes the commands of nsupdate. A set that is there already refuses the whole.
func writeUpdate(w io.Writer, records []Record, ttl int) error {
	var b strings.Builder
	for _, s := range setsOf(records) {
		if s.kind != "TXT" { // TXT records of others may stand there
			fmt.Fprintf(&b, "prereq nxrrset %s. %s\n", s.name, s.kind)
		}
	}
	for _, s := range setsOf(records) {
		for i := range s.records {
			fmt.Fprintf(&b, "update add %s. %d %s %s\n", s.name, ttl, s.kind, s.records[i].ZoneValue())
		}
	}
	b.WriteString("show\nsend\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// route53 returns a change batch of Route 53, which fails where a set exists.
func route53(records []Record, ttl int) any {
	type value struct{ Value string }
	type resource struct {
		Name            string
		Type            string
		TTL             int
		ResourceRecords []value
	}
	type change struct {
		Action            string
		ResourceRecordSet resource
	}
	var changes []change
	for _, s := range setsOf(records) {
		r := resource{Name: s.name + ".", Type: s.kind, TTL: ttl}
		for i := range s.records {
			r.ResourceRecords = append(r.ResourceRecords, value{s.records[i].ZoneValue()})
		}
		changes = append(changes, change{"CREATE", r})
	}
	return map[string]any{"Comment": "mail by Millrace", "Changes": changes}
}

// cloudflare returns the body of a batch for the API of Cloudflare (dns_records/batch).
func cloudflare(records []Record, ttl int) any {
	type post struct {
		Type     string `json:"type"`
		Name     string `json:"name"`
		Content  string `json:"content,omitempty"`
		Data     any    `json:"data,omitempty"`
		TTL      int    `json:"ttl"`
		Priority *int   `json:"priority,omitempty"`
		Proxied  *bool  `json:"proxied,omitempty"`
		Comment  string `json:"comment"`
	}
	var posts []post
	for _, s := range setsOf(records) {
		for i := range s.records {
			r := &s.records[i]
			p := post{Type: r.Type, Name: r.Name, Content: r.ZoneValue(), TTL: ttl, Comment: "Millrace: " + r.For}
			switch r.Type {
			case "MX":
				pref, host, _ := strings.Cut(r.Value, " ")
				n, _ := strconv.Atoi(pref)
				p.Priority, p.Content = &n, strings.TrimSuffix(host, ".")
			case "TLSA":
				p.Content, p.Data = "", tlsaData(r.Value)
			case "A", "AAAA":
				p.Proxied = new(bool) // the proxy knows no SMTP
			}
			posts = append(posts, p)
		}
	}
	return map[string]any{"posts": posts}
}

// tlsaData returns a TLSA record as Cloudflare's API has it.
func tlsaData(value string) any {
	type data struct {
		Usage        int    `json:"usage"`
		Selector     int    `json:"selector"`
		MatchingType int    `json:"matching_type"`
		Certificate  string `json:"certificate"`
	}
	var d data
	_, _ = fmt.Sscan(value, &d.Usage, &d.Selector, &d.MatchingType, &d.Certificate) // keyMatch made it
	return d
}

// notInLabel is what a name in Terraform cannot have.
var notInLabel = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// writeTerraform writes resources of Terraform for Route 53, in the zone of the variable zone_id.
func writeTerraform(w io.Writer, records []Record, ttl int) error {
	var b strings.Builder
	b.WriteString("variable \"zone_id\" {\n  type = string\n}\n")
	for _, s := range setsOf(records) {
		label := strings.ToLower(s.kind) + "_" + notInLabel.ReplaceAllString(s.name, "_")
		fmt.Fprintf(&b, "\nresource \"aws_route53_record\" %q {\n  zone_id = var.zone_id\n  name    = %q\n"+
			"  type    = %q\n"+
			"  ttl     = %d\n  records = [\n", label, s.name, s.kind, ttl)
		for i := range s.records {
			value := s.records[i].ZoneValue()
			if s.kind == "TXT" {
				// The provider puts the outer quotes itself.
				value = strings.TrimSuffix(strings.TrimPrefix(value, `"`), `"`)
				value = strings.ReplaceAll(value, `" "`, `""`)
			}
			fmt.Fprintf(&b, "    %s,\n", hcl(value))
		}
		b.WriteString("  ]\n}\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// hcl returns a string as Terraform reads it.
func hcl(s string) string {
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(strconv.Quote(s))
}
