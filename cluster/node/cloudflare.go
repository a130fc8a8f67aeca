package node

import (
	"context"
	"math"
	"strconv"
	"strings"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/admin/v4"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node/doctor"
	"github.com/millrace/millrace/router/leaf/domain"
)

// recordTTL is how long others may keep the records that are to be published, in seconds.
const recordTTL = 300

// zoneRecords returns what is to be published for a domain, as Cloudflare's clients read it.
func zoneRecords(c *config.Config, name string) (list []v4.Record, err error) {
	all, err := doctor.Records(c, []string{name}, nil)
	for i := range all {
		r := &all[i]
		if !domain.Within(domain.Canonical(r.Name), name) || r.Type == "PTR" || r.IsPlaceholder() {
			continue // of the relay, which all its domains share
		}
		out := v4.Record{Type: r.Type, Name: r.Name, Content: r.Value, TTL: recordTTL}
		if r.Type == "MX" {
			preference, host, _ := strings.Cut(r.Value, " ")
			n, err := strconv.Atoi(preference)
			if err != nil {
				return nil, err
			}
			out.Priority, out.Content = &n, strings.TrimSuffix(host, ".")
		}
		list = append(list, out)
	}
	return list, err
}

// askOperator answers that a destination waits for an operator.
func askOperator(context.Context, account.Principal, account.Destination) error {
	return &account.Error{
		Kind: account.Refused, Code: account.CodeRefused,
		Message: "the destination takes no mail before one who runs this relay has said that it is verified",
	}
}

// cloudflare returns the surface for the clients of Cloudflare.
func (n *Node) cloudflare() admin.Surface {
	return v4.New(v4.Config{
		Account: n.rules.account,
		Hosted:  func() []string { return n.rules.router.HostedNames(math.MaxInt) },
		Records: func(name string) ([]v4.Record, error) { return zoneRecords(n.cfg, name) },
		Ask:     askOperator,
	})
}
