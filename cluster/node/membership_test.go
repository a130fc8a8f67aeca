package node

import (
	"strings"
	"testing"
	"time"
)

// TestClusterFiles_Ending: the end of the certificates is told from 30 days before it.
func TestClusterFiles_Ending(t *testing.T) {
	end := time.Date(2027, 3, 31, 12, 0, 0, 0, time.UTC)
	f := &clusterFiles{ends: end}
	if got := f.ending(end.Add(-31 * 24 * time.Hour)); got != "" {
		t.Error(got)
	}
	if got := f.ending(end.Add(-30 * 24 * time.Hour)); !strings.Contains(got, "2027-03-31") {
		t.Error(got)
	}
	if got := f.ending(end.Add(time.Second)); !strings.HasPrefix(got, "ended on 2027-03-31") {
		t.Error(got)
	}
	if got := (*clusterFiles)(nil).ending(end); got != "" {
		t.Error("without a cluster:", got)
	}
}
