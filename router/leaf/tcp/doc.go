// Package tcp asks the kernel about TCP connections. It owns the calls of the system, and refuses to know what they are
// asked for.
package tcp
