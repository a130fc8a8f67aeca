package nodes_test

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/millrace/millrace/cluster/activity"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/world"
)

// readLog asks a node for its activity log, with a token or without one.
func readLog(t *testing.T, r *world.Relay, query, token string) (status int, page activity.Page) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		"http://"+r.Node.AdminAddr().String()+"/api/v1/log"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(text, &page); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	return resp.StatusCode, page
}

// TestActivity_Cluster: whichever node is asked, the log is that of all nodes, page by page; a node that keeps none is
// named, and without the token there is no answer.
func TestActivity_Cluster(t *testing.T) {
	home := smtptest.Start(t, smtptest.Behaviour{})
	c := &cluster{keys: t.TempDir(), world: administered(t, world.World{
		Routes: "domain * dmarc=off require_auth=no\n@x.example smtp://" + home.Addr() + "\n",
	})}
	plain := c.world.Config
	c.world.Config += "activity: {keep: 1h, memory: 1MiB}\n"
	c.join(t, "a")
	c.join(t, "b")
	c.world.Config = plain
	c.join(t, "c")
	c.through(t)
	for _, r := range c.nodes {
		world.Await(t, "the rows of both nodes", func() bool {
			_, page := readLog(t, r, "", adminToken)
			return len(page.Rows) == 2
		})
		status, page := readLog(t, r, "?to=b@x.example&limit=1", adminToken)
		if status != http.StatusOK || len(page.Rows) != 1 || page.Next == "" || len(page.Nodes) != 3 {
			t.Fatalf("%d %+v", status, page)
		}
		for _, k := range page.Nodes {
			if (k.Failed != "") != (k.Node == "c") {
				t.Errorf("%+v", k)
			}
		}
		_, second := readLog(t, r, "?to=b@x.example&limit=1&before="+page.Next, adminToken)
		if len(second.Rows) != 1 || second.Next != "" || second.Rows[0].Node == page.Rows[0].Node {
			t.Errorf("the second page: %+v", second)
		}
		row := second.Rows[0]
		if row.Status != activity.Delivered || row.From != "a@client.example" || row.ID == "" {
			t.Errorf("%+v", row)
		}
	}
	for _, token := range []string{"", "0123456789abcdeg"} {
		for _, path := range []string{"", "/senders?to=b@x.example"} {
			if status, _ := readLog(t, c.nodes[0], path, token); status != http.StatusUnauthorized {
				t.Errorf("%q with %q: %d", path, token, status)
			}
		}
	}
	if status, _ := readLog(t, c.nodes[0], "?subject=x", adminToken); status != http.StatusBadRequest {
		t.Errorf("a filter that is none: %d", status)
	}
}
