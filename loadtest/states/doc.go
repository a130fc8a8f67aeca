// Package states weighs what a connection costs in each state that a stranger can bring it to, and holds the document
// that tells of it.
package states
