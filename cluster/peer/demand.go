package peer

import "github.com/millrace/millrace/router/mail"

// tlsVersion is the version of the hop from which on a peer knows what a message demands of TLS. An older one would
// drop it, and deliver by what it demands itself.
const tlsVersion = 4

// demandsTLS reports whether a delivery demands of TLS what the owner of its Site has to know.
func demandsTLS(d *mail.Delivery) bool {
	return d.Params.RequireTLS || d.TLS != mail.TLSDemand{}
}
