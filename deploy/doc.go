// Package deploy holds what an operator installs beside the binary: a systemd unit. It owns no code but the tests that
// keep those files honest, and refuses to know how the relay works.
package deploy
