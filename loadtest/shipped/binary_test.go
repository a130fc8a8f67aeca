package shipped_test

import (
	"debug/buildinfo"
	"debug/elf"
	"os"
	"testing"

	"github.com/millrace/millrace/loadtest/world"
)

// mostOctets is the largest that a binary may be.
const mostOctets = 40 << 20

// TestBinary: it asks for no file of its host, neither shared libraries nor time zones, and has a size.
func TestBinary(t *testing.T) {
	binary := world.Binary(t)
	info, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MiB", float64(info.Size())/(1<<20))
	if info.Size() > mostOctets {
		t.Errorf("%d octets, want %d at most", info.Size(), mostOctets)
	}
	file, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, part := range file.Progs {
		if part.Type == elf.PT_INTERP || part.Type == elf.PT_DYNAMIC {
			t.Errorf("it has %s: it is linked with what its host has", part.Type)
		}
	}
	build, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, s := range build.Settings {
		got[s.Key] = s.Value
	}
	for key, want := range map[string]string{"CGO_ENABLED": "0", "-tags": "timetzdata", "-trimpath": "true"} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
}
