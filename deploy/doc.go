// Package deploy holds what an operator installs beside the binary: a systemd unit, packages, an image and what runs
// three of it, configurations of a node and of balancers in front of nodes, the alerts and the dashboard of its
// metrics, and below it an example of a receiver of events. It owns no code but the tests that keep those files honest,
// and refuses to know how the relay works.
package deploy
