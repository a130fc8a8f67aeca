package node

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/smtptest"
)

// TestDoubts: certificates are judged by their time and their names, and secret files by who has access.
func TestDoubts(t *testing.T) {
	day := 24 * time.Hour
	for _, tt := range []struct {
		name, certName string
		now            time.Duration
		mode           os.FileMode
		want           string
	}{
		{"a certificate that goes on", "mx1.example.net", -90 * day, 0o600, "is not valid before"},
		{"one that ends within thirty days", "mx1.example.net", 0, 0o640, "ends on"},
		{"one that has ended", "mx1.example.net", 90 * day, 0o600, "ended on"},
		{"one for another name", "mx2.example.net", 0, 0o600,
			"is for mx2.example.net, not for hostname, mx1.example.net"},
		{"one for an address", "192.0.2.1", 0, 0o600, "is for 192.0.2.1, not for hostname"},
		{"a key that all can read", "mx1.example.net", 0, 0o644, "tls.key: every user of this machine has access"},
		{"a key that all can write", "mx1.example.net", 0, 0o602, "(mode 0602): chmod o= "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := configFile(t)
			dir := filepath.Dir(file)
			writePair(t, dir, smtptest.NewCA().Certificate(tt.certName))
			if err := os.Chmod(filepath.Join(dir, "key.pem"), tt.mode); err != nil {
				t.Fatal(err)
			}
			c, err := config.Parse(file, []byte(smallest+"tls:\n  cert: cert.pem\n  key: key.pem\n"), "")
			if err != nil {
				t.Fatal(err)
			}
			got := config.Problems(doubts(c, time.Now().Add(tt.now)))
			if !strings.Contains(got.Error(), tt.want) {
				t.Errorf("got\n%v\nwant %s", got, tt.want)
			}
			for _, w := range got {
				if w.Line == 0 || w.Column == 0 {
					t.Errorf("without a place: %v", w)
				}
			}
		})
	}
	for output, want := range map[string]string{
		"unix:/nowhere/log": "log.output: /nowhere/log is not there now: lines wait until a daemon makes it",
		"unix:/etc":         "log.output: /etc is no socket",
	} {
		c, err := config.Parse(configFile(t), []byte(smallest+"log: {output: \""+output+"\"}\n"), "")
		if err != nil {
			t.Fatal(err)
		}
		if got := config.Problems(doubts(c, time.Now())); !strings.Contains(got.Error(), want) {
			t.Errorf("got\n%v\nwant %s", got, want)
		}
	}
	t.Run("nothing is said where nothing is doubtful", func(t *testing.T) {
		file := configFile(t)
		pair, err := selfSigned("mx1.example.net", time.Now(), nil)
		if err != nil {
			t.Fatal(err)
		}
		writePair(t, filepath.Dir(file), tls.Certificate(pair))
		c, err := config.Parse(file, []byte(smallest+"tls:\n  cert: cert.pem\n  key: key.pem\n"), "")
		if err != nil {
			t.Fatal(err)
		}
		if got := doubts(c, time.Now()); len(got) != 0 {
			t.Errorf("got %v", got)
		}
	})
}
