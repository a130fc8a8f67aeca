// Package node assembles one running relay from its configuration, and nothing else.
//
// It owns the order in which the parts start and end, the files that the configuration names (keys, certificates,
// credentials, limits of Sites), the queue of events with its consumer (log and other observers), and the
// adapters between packages that may not see one another. It is the only place that knows how spans are exported.
//
// There is one assembly: build makes the parts that run nothing. Check builds and closes them, Explain builds them and
// asks them a question, and a Node builds and starts them.
//
// It refuses to know anything of mail: what a reply says, where a message goes and how its octets travel is decided in
// ingress, router and egress. It refuses to know the text of the configuration, which package config reads. It writes
// no file.
package node
