package admin

import (
	"encoding/json"
	"testing"
)

// TestServer_Cluster: the page of the cluster needs the token.
func TestServer_Cluster(t *testing.T) {
	const token = "0123456789abcdef"
	said := ClusterStatus{
		Node: "a", Ring: "00000000000000ff", Rules: 7, Sessions: 3, Relayed: 100, Reused: 97, Stable: 2,
		Members: []ClusterMember{
			{Name: "a", Self: true, Peer: "127.0.0.1:1", Weight: 1}, {Name: "b", Draining: true, Weight: 2},
		},
		Sites: []ClusterSite{{Site: "mx.example", Owner: "b", Open: 3, Idle: 1}},
		Suspensions: []ClusterSuspension{{
			Site: "mx.example", Until: "2026-01-01T00:00:00Z", Reason: "rate", Node: "b",
		}},
	}
	base := start(t, Config{Metrics: NewMetrics("v1", Gauges{}), Token: []byte(token), Cluster: func() ClusterStatus {
		return said
	}})
	for _, wrong := range []string{"", "0123456789abcdee"} {
		if code, body := get(t, base+"/api/v1/cluster", wrong); code != 401 {
			t.Errorf("with %q: %d %s", wrong, code, body)
		}
	}
	code, body := get(t, base+"/api/v1/cluster", token)
	var got ClusterStatus
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 {
		t.Fatalf("%d %v: %s", code, err, body)
	}
	want, err := json.Marshal(said)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(got); err != nil || string(again) != string(want) {
		t.Errorf("got %s, %v\nwant %s", again, err, want)
	}
	base = start(t, Config{Metrics: NewMetrics("v1", Gauges{}), Token: []byte(token)})
	if code, _ := get(t, base+"/api/v1/cluster", token); code != 404 {
		t.Errorf("nobody to ask: %d", code)
	}
}
