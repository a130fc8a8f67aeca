package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/config"
)

type clusterStatusVerb struct {
	configFlag
	jsonFlag
}

const (
	// statusTimeout bounds the question to the node. It answers from memory.
	statusTimeout = 5 * time.Second
	// maxStatus bounds its answer in octets.
	maxStatus = 16 << 20
)

func (v *clusterStatusVerb) run(s streams) int {
	if err := v.show(s); err != nil {
		return fail(s, err)
	}
	return exitOK
}

func (v *clusterStatusVerb) show(s streams) error {
	cfg, err := config.Load(v.Config)
	if err != nil {
		return err
	}
	body, err := askNode(context.Background(), cfg, http.MethodGet, "/api/v1/cluster")
	if err != nil {
		return err
	}
	var status admin.ClusterStatus
	if err := json.Unmarshal(body, &status); err != nil {
		return fmt.Errorf("%s: %w", cfg.Admin.Addr, err)
	}
	if v.JSON {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		return enc.Encode(status)
	}
	return printStatus(s.out, status)
}

// askNode sends a request to the admin server of the node that runs with cfg, and returns the body of the answer.
func askNode(ctx context.Context, cfg *config.Config, method, path string) ([]byte, error) {
	return tellNode(ctx, cfg, nodeRequest{method: method, path: path, most: statusTimeout})
}

// tellNode is askNode with a body, and for an answer that takes time.
func tellNode(ctx context.Context, cfg *config.Config, ask nodeRequest) ([]byte, error) {
	at, err := adminOf(cfg)
	if err != nil {
		return nil, err
	}
	return at.tell(ctx, ask)
}

// printStatus prints the status for people.
func printStatus(out io.Writer, s admin.ClusterStatus) error {
	if s.Node == "" {
		fmt.Fprintln(out, "node      alone: its configuration has no cluster section")
	} else {
		fmt.Fprintf(out, "node      %s%s\nring      %s, limits shared by %d\n", s.Node, draining(s.Draining), s.Ring,
			s.Stable)
	}
	if len(s.Keys) > 0 {
		fmt.Fprintf(out, "gossip    encrypted with key %s", s.Keys[0])
		for _, k := range s.Keys[1:] {
			fmt.Fprintf(out, ", understands %s", k)
		}
		fmt.Fprintln(out)
	}
	rules := fmt.Sprintf("version %d", s.Rules)
	if s.Rules == 0 {
		rules = "of this node's files"
	}
	reuse := "no mail yet"
	if s.Relayed > 0 {
		reuse = fmt.Sprintf("%.1f %% of %d messages that came in here went over a warm one",
			100*float64(s.Reused)/float64(s.Relayed), s.Relayed)
	}
	fmt.Fprintf(out, "rules     %s\nsessions  %d open here; %s\n", rules, s.Sessions, reuse)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(s.Members) > 0 {
		fmt.Fprintln(t, "\nMEMBER\tHOP\tGOSSIP\tWEIGHT\tVERSION")
		for _, m := range s.Members {
			fmt.Fprintf(t, "%s%s\t%s\t%s\t%g\t%s\n", m.Name, draining(m.Draining), m.Peer, m.Gossip, m.Weight,
				shown(m.Version))
		}
	}
	if len(s.Sites) > 0 {
		fmt.Fprintln(t, "\nSITE\tOWNER\tOPEN HERE\tIDLE\tWAITING")
		for _, x := range s.Sites {
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\n", shortSite(string(x.Site)),
				shown(strings.ReplaceAll(x.Owner, ", ", "+")), x.Open, x.Idle, x.Waiting)
		}
	}
	if len(s.Suspensions) > 0 {
		fmt.Fprintln(t, "\nSUSPENDED\tUNTIL\tREASON\tBY")
		for _, x := range s.Suspensions {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", shortSite(string(x.Site)), x.Until, shown(x.Reason), shown(x.Node))
		}
	}
	return t.Flush()
}

func draining(yes bool) string {
	if yes {
		return " (draining)"
	}
	return ""
}

// shown returns text with what could control a terminal replaced, "-" for "": it came from other nodes or from DNS.
func shown(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f {
			return '?'
		}
		return r
	}, s)
}

// shortSite shortens the name of a Site to fit in a line.
func shortSite(s string) string {
	const most = 60
	if s = shown(s); len(s) > most {
		return s[:most-3] + "..."
	}
	return s
}
