// Package loadtest holds the acceptance of the relay as a whole: tests that put one node between clients and
// destinations that were written by others, or that misbehave on purpose, and judge it by what both ends saw.
//
// The folders beside these tests are what they are made of: extern runs other people's programs, source makes mail,
// benchrelay measures the relay beside HAProxy, and idle weighs connections on which nothing happens. Nothing here is
// part of the relay, and the relay knows nothing of it.
package loadtest
