// Package node assembles one running relay from its configuration, and nothing else.
//
// It owns the YAML file and the mapping of every complaint to a line of it, the order in which the parts start and end,
// the keys and certificates they share, the ring of events with its consumer (log, metrics and whoever watches), and
// the adapters between packages that may not see one another. It is the only place that knows the YAML library and the
// OpenTelemetry SDK.
//
// It refuses to know anything of mail: what a reply says, where a message goes and how its octets travel is decided in
// ingress, router and egress. It writes no file.
package node
