package mx

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// maxSite is how long the spelt-out name of a Site may be. It is a key in maps, gossip and logs.
const maxSite = 255

// site names the Site that hosts form.
func (f *Finder) site(hosts []Host) mail.Site {
	if s := f.cfg.Providers.of(hosts); s != "" {
		return s
	}
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = h.Name
	}
	slices.Sort(names)
	joined := strings.Join(names, ",")
	switch {
	case len(joined) > maxSite:
		digest := sha256.Sum256([]byte(joined))
		return mail.Site(names[0] + ",+" + strconv.Itoa(len(names)-1) + "," + hex.EncodeToString(digest[:8]))
	case !strings.Contains(joined, "."):
		return mail.Site(joined + ".") // a host named like a provider is not the provider
	}
	return mail.Site(joined)
}
