package main_test

import (
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The rules about packages: who may import whom, which libraries they use and where they stand.

// layers holds the import rule. The siblings ingress, router, egress and cluster cannot see each other: a package
// imports its own top-level folder and router/mail. Across folders import only the packages that put a node together,
// and those that measure one. A session asks about clients and messages through the doors ingress/client and
// ingress/message alone.
func layers(s source) []string {
	var findings []string
	for spec, importPath := range s.imports {
		if importPath != module && !strings.HasPrefix(importPath, module+"/") {
			continue
		}
		to := strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
		if !mayImport(s.dir(), to, s.test()) {
			findings = append(findings, s.at(spec.Pos(), s.dir()+" may not import "+to))
		}
	}
	return findings
}

// mayImport tells whether a package in folder from may import the package in folder to, both from the module's root.
func mayImport(from, to string, test bool) bool {
	assembly := []string{"cluster/config", "cluster/node", "cluster/command", "cluster/dev"}
	crosses := under(from, append(assembly, "bench", "loadtest")...) && !under(from, "loadtest/extern")
	switch {
	case to == "":
		return false
	case from == ".":
		return to == "cluster/command"
	case from == "router/mail":
		return test && to == "router/mail"
	case under(from, "router/leaf"):
		return under(to, "router/leaf")
	case to == "router/mail", under(to, "router/leaf"):
		return true
	case under(to, "loadtest/extern"):
		return test || under(from, "loadtest")
	case under(to, "egress/smtptest", "egress/dns/dnstest"):
		return test || under(from, "egress/smtptest", "egress/dns/dnstest", "cluster/dev", "bench", "loadtest")
	case under(to, "cluster/gossiptest", "cluster/logtest"):
		return test && (top(from) == "cluster" || crosses) || under(from, "loadtest")
	case under(to, "ingress/ingresstest"):
		return test && (top(from) == "ingress" || crosses) || under(from, "loadtest")
	case under(from, "loadtest/extern"):
		return false
	case from == "ingress" && !test && under(to, "ingress/client", "ingress/message"):
		return to == "ingress/client" || to == "ingress/message" // the doors
	case under(to, "bench", "loadtest", "deploy"):
		return top(from) == top(to)
	case under(to, assembly...):
		return crosses
	case crosses:
		return true
	default:
		return top(from) == top(to)
	}
}

// gateFor names, for each library, the folders that may import it: "x/..." is x and what lies below, "tests" is each
// test file, "..." is everywhere. The longest path that fits an import decides; a library without a line is refused.
var gateFor = map[string][]string{
	"github.com/redis/go-redis":                  {"cluster/store"},
	"github.com/hashicorp/memberlist":            {"cluster", "cluster/gossiptest"},
	"github.com/miekg/dns":                       {"egress/dns", "egress/dns/dnstest"},
	"go.yaml.in/yaml":                            {"cluster/config", "tests"},
	"blitiri.com.ar/go/spf":                      {"ingress/message/auth/spf"},
	"go.opentelemetry.io/otel":                   {"cluster/node"},
	"go.opentelemetry.io/otel/sdk":               {"cluster/node"},
	"go.opentelemetry.io/otel/exporters":         {"cluster/node"},
	"go.opentelemetry.io/proto":                  {"cluster/node"},
	"github.com/emersion/go-smtp":                {"loadtest/...", "bench/...", "tests"},
	"github.com/emersion/go-sasl":                {"loadtest/...", "bench/...", "tests"},
	"github.com/emersion/go-msgauth":             {"ingress/message/auth/...", "cluster/node", "tests"},
	"github.com/pires/go-proxyproto":             {"ingress/wire"},
	"github.com/prometheus/client_golang":        {"cluster/admin"},
	"github.com/alecthomas/kong":                 {"cluster/command"},
	"github.com/HdrHistogram/hdrhistogram-go":    {"loadtest/...", "bench/..."},
	"github.com/zeebo/blake3":                    {"ingress/message/once"},
	"golang.org/x/net/idna":                      {"router/rules", "egress/...", "ingress/message/auth/..."},
	"golang.org/x/net/proxy":                     {"egress/smtpclient"},
	"golang.org/x/text/unicode/norm":             {"router/rules"},
	"golang.org/x/crypto":                        {"ingress/submission"},
	"golang.org/x/sync":                          {"..."},
	"golang.org/x/sys":                           {"loadtest/...", "tests"},
	"golang.org/x/sys/cpu":                       {"ingress/wire"},
	"github.com/go-analyze/charts":               {"loadtest/..."},
	"github.com/d--j/go-milter":                  {"tests"},
	"pgregory.net/rapid":                         {"tests"},
	"go.uber.org/goleak":                         {"tests"},
	"github.com/rogpeppe/go-internal/testscript": {"tests"},

	// Spans are made in node, and metrics where their names are.
	"go.opentelemetry.io/otel/attribute":            {"cluster/..."},
	"go.opentelemetry.io/otel/metric":               {"cluster/admin"},
	"go.opentelemetry.io/otel/sdk/metric":           {"cluster/admin"},
	"go.opentelemetry.io/otel/exporters/prometheus": {"cluster/admin"},
}

func gates(s source) []string {
	var findings []string
	for spec, importPath := range s.imports {
		// The first element of a path of the standard library has no dot.
		if !strings.Contains(top(importPath), ".") || under(importPath, module) {
			continue
		}
		library := importPath
		for library != "." && gateFor[library] == nil {
			library = path.Dir(library)
		}
		if !slices.ContainsFunc(gateFor[library], func(gate string) bool { return passes(s, gate) }) {
			findings = append(findings, s.at(spec.Pos(), s.dir()+" is no gate of "+importPath))
		}
	}
	return findings
}

// passes tells whether a file stands at a gate, as gateFor writes it.
func passes(s source, gate string) bool {
	switch folder, below := strings.CutSuffix(gate, "/..."); {
	case gate == "...":
		return true
	case gate == "tests":
		return s.test()
	case below:
		return under(s.dir(), folder)
	default:
		return s.dir() == gate
	}
}

// missingFolders finds folders of this tree that a file of rules names and that do not exist.
func missingFolders(rules source, sources []source) []string {
	var findings []string
	ast.Inspect(rules.ast, func(n ast.Node) bool {
		l, ok := n.(*ast.BasicLit)
		if !ok || l.Kind != token.STRING {
			return true
		}
		folder, err := strconv.Unquote(l.Value)
		folder = strings.TrimSuffix(folder, "/...")
		if err != nil || !ownFolder.MatchString(folder) {
			return true
		}
		if !slices.ContainsFunc(sources, func(s source) bool { return under(s.dir(), folder) }) {
			findings = append(findings, rules.at(l.Pos(), folder+" does not exist"))
		}
		return true
	})
	return findings
}

var ownFolder = regexp.MustCompile(`^(bench|cluster|deploy|egress|ingress|loadtest|router)(/[a-z0-9]+)*$`)

// drawnOrder returns the folders of the first drawing of a document, from the top down.
func drawnOrder(document string) []string {
	_, drawing, _ := strings.Cut(document, "\n```\n")
	drawing, _, _ = strings.Cut(drawing, "\n```\n")
	var order []string
	for line := range strings.Lines(drawing) {
		if folder, _, ok := strings.Cut(line, "/ "); ok || strings.HasSuffix(line, "/\n") {
			order = append(order, strings.TrimSuffix(folder, "/\n"))
		}
	}
	return order
}

// upward finds imports of production code that run against the drawn order, and packages that are not drawn. What
// measures, tests and builds the relay stands beside the drawing.
func upward(s source, order []string) []string {
	place := func(folder string) int {
		if under(folder, "router/leaf") {
			folder = "router/leaf"
		}
		return slices.Index(order, folder)
	}
	if s.test() || s.dir() == "." || under(s.dir(), ".ci", "bench", "loadtest", "deploy", "egress/smtptest",
		"egress/dns/dnstest", "ingress/ingresstest", "cluster/gossiptest", "cluster/logtest") {
		return nil
	}
	from := place(s.dir())
	if from < 0 {
		return []string{s.at(s.ast.Pos(), s.dir()+" is not drawn in ARCHITECTURE.md")}
	}
	var findings []string
	for spec, importPath := range s.imports {
		to, ours := strings.CutPrefix(importPath, module+"/")
		if i := place(to); ours && i >= 0 && i < from {
			findings = append(findings, s.at(spec.Pos(), to+" stands above "+s.dir()+" in ARCHITECTURE.md"))
		}
	}
	return findings
}
