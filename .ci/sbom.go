//go:build ignore

// Command sbom prints what a Go binary is made of, as the Go linker recorded it, in the form CycloneDX 1.5: the modules
// with their versions and sums, and the Go release whose standard library is in it. It prints the same for the same
// binary: no time, and a number that is the hash of the binary.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

type hash struct {
	Alg     string `json:"alg"`
	Content string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(file string) error {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	self := module("application", info.Main.Path, info.Main.Version, "")
	self.Hashes = []hash{{"SHA-256", hex.EncodeToString(sum[:])}}
	for _, s := range info.Settings {
		switch s.Key {
		case "GOARCH", "GOOS", "CGO_ENABLED", "-tags", "vcs.revision":
			self.Properties = append(self.Properties, property{"go:" + s.Key, s.Value})
		}
	}
	parts := []component{module("library", "std", strings.TrimPrefix(info.GoVersion, "go"), "")}
	on := dependency{Ref: self.Ref, DependsOn: []string{parts[0].Ref}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		parts = append(parts, module("library", m.Path, m.Version, m.Sum))
		on.DependsOn = append(on.DependsOn, parts[len(parts)-1].Ref)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	return out.Encode(map[string]any{
		"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
		"serialNumber": "urn:uuid:" + number(sum),
		"metadata":     map[string]any{"component": self},
		"components":   parts, "dependencies": []dependency{on},
	})
}

// number returns a UUID (RFC 9562, version 8) made of a hash.
func number(sum [sha256.Size]byte) string {
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// module returns a module as a component. The sum is that of go.sum, "h1:" and SHA-256 in base64 over the hashes of its
// files, so it stands as what it is and not as a hash of one file.
func module(kind, path, version, sum string) component {
	purl := "pkg:golang/" + path + "@" + version
	c := component{Type: kind, Ref: purl, Name: path, Version: version, PURL: purl}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sum, "h1:"))
	if err == nil && len(raw) == sha256.Size {
		c.Properties = []property{{"go:sum", sum}}
	}
	return c
}
