package config

import (
	"reflect"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/leaf/near"
)

// otherKeys are keys of other programs, each with the key that does the same here.
var otherKeys = map[string]string{
	"myhostname": "hostname", "name": "hostname", "server_name": "hostname", "domain": "hostname",
	"primary_hostname": "hostname", "fqdn": "hostname", "smtp_banner": "hostname",
	"address": "addr", "port": "addr", "host": "addr", "bind": "addr", "inet_interfaces": "listen",
	"listen_addr": "listen", "listener": "listen", "listeners": "listen", "ports": "listen", "interfaces": "listen",
	"mynetworks": "listen[].networks", "trusted_networks": "listen[].networks", "relay_from_hosts": "listen[].networks",
	"message_size_limit": "limits.message_size", "max_size": "limits.message_size",
	"max_message_size": "limits.message_size", "client_connection_limit": "limits.connections_per_client",
	"smtpd_tls_cert_file": "tls.cert", "smtpd_tls_key_file": "tls.key", "tls_certificate": "tls.cert",
	"tls_privatekey": "tls.key", "certificate": "cert", "cert_file": "cert", "key_path": "key",
	"private_key": "key", "aliases": "routes", "virtual_alias_maps": "routes", "rules": "routes", "routers": "routes",
	"transport_maps": "routes", "forwards": "routes", "resolver": "dns.servers", "nameservers": "dns.servers",
	"resolvers": "dns.servers", "smtp_helo_name": "egress.helo", "helo": "egress.helo",
	"smtp_bind_address": "egress.source", "source_ip": "egress.source", "sasl_passwd": "egress.credentials_file",
	"smtp_sasl_password_maps": "egress.credentials_file", "dnsbl": "score.lists", "rbl": "score.lists",
	"dns_lists": "score.lists", "whitelist": "score.allow", "blacklist": "score.block", "allowlist": "score.allow",
	"denylist": "score.block", "greylisting": "score.greylist", "greylist": "score.greylist",
	"otlp_endpoint": "telemetry.otlp", "endpoint": "telemetry.otlp", "loglevel": "log.level", "log_level": "log.level",
	"syslog": "log.output", "maillog_file": "log.output", "log_format": "log.format", "logformat": "log.format",
	"metrics": "admin", "http": "admin", "peers": "cluster.join", "nodes": "cluster.members", "uri": "url",
	"trusted": "relay", "webhook": "events", "webhooks": "events", "hooks": "events",
	"proxy": "proxy_protocol", "key": "key_file", "secret": "secret_file",
}

// keyMeant returns the key that was probably meant by one that a section does not have, or "": one of the section, or
// one that stands in another section.
func keyMeant(section reflect.Type, key string) string {
	keys := keysOf(section)
	if other := otherKeys[strings.ToLower(strings.ReplaceAll(key, "-", "_"))]; other != "" {
		if _, here := section.FieldByNameFunc(func(name string) bool {
			f, _ := section.FieldByName(name)
			return f.Tag.Get("yaml") == other
		}); here || strings.ContainsAny(other, ".") || section == reflect.TypeFor[Config]() {
			return other
		}
	}
	if meant := near.Word(key, keys); meant != "" {
		return meant
	}
	return strings.Join(elsewhere(reflect.TypeFor[Config](), "", key), " or ")
}

// elsewhere returns the paths of a key in the sections of a section.
func elsewhere(section reflect.Type, path, key string) (paths []string) {
	for i := range section.NumField() {
		f := section.Field(i)
		tag := f.Tag.Get("yaml")
		if tag == "" || tag == "-" {
			continue
		}
		at, t := path+tag, f.Type
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			if t.Kind() == reflect.Slice {
				at += "[]"
			}
			t = t.Elem()
		}
		if tag == key {
			paths = append(paths, path+tag)
		}
		if t.Kind() == reflect.Struct && len(keysOf(t)) > 0 {
			paths = append(paths, elsewhere(t, at+".", key)...)
		}
	}
	return paths
}

// switchMeant returns what was probably meant by a value that is neither true nor false, as the end of a complaint.
func switchMeant(text string) string {
	switch strings.ToLower(text) {
	case "yes", "on", "1", "y", "true", "enabled", "enable":
		return ": write true"
	case "no", "off", "0", "n", "false", "disabled", "disable", "":
		return ": write false"
	}
	return ""
}

// numberMeant returns what was probably meant by a value that is no whole number, as the end of a complaint.
func numberMeant(text string) string {
	digits := strings.NewReplacer("_", "", ",", "", ".", "", " ", "", "'", "").Replace(text)
	_, err := strconv.Atoi(digits)
	switch {
	case text == "":
		return ": nothing stands there"
	case strings.Trim(text, "0123456789") == "":
		return " that a machine counts to"
	case err == nil && digits != text && strings.Trim(text, "0123456789.") != "":
		return ": write " + digits
	}
	return ""
}

// shareMeant returns what was probably meant by a value that is no number, as the end of a complaint.
func shareMeant(text string) string {
	if percent, ok := strings.CutSuffix(text, "%"); ok {
		if f, err := strconv.ParseFloat(strings.TrimSpace(percent), 64); err == nil {
			return ": write " + strconv.FormatFloat(f/100, 'g', -1, 64)
		}
	}
	if comma := strings.Replace(text, ",", ".", 1); comma != text {
		if _, err := strconv.ParseFloat(comma, 64); err == nil {
			return ": write " + comma
		}
	}
	return ""
}
