// Package wire is the server side of SMTP on the wire (RFC 5321): connections and their caps, command lines, replies
// and their batches, STARTTLS, DATA and BDAT, the PROXY protocol header and XCLIENT. It owns syntax, order, limits and
// time-outs, and the octets of a message from the socket to the slab in which its Session sees them.
//
// It refuses to know any policy. The Session decides which client, reverse-path, recipient or message is welcome, one
// method per verb. The engine turns the error that a method returns into a reply by mail.ReplyFor and by nothing else.
//
// Its invariants:
//   - Only CRLF.CRLF ends a message that came by DATA, and only the announced count one that came by BDAT. The scanner
//     finds the same end however the input is cut into reads. A message with a bare CR or LF is refused.
//   - No octet of a message is ever read as a command: where the end of a message was not seen, the connection is
//     closed.
//   - Octets that came in clear behind STARTTLS are never read under TLS.
//   - A message is answered 2yz only after its Session saw all of it.
//   - One goroutine at a time per connection and one call stack per message. While it waits for a command, a connection
//     keeps a read buffer of 512 octets and nothing else of size. One that is delayed on purpose also keeps what its
//     client sent ahead.
//
// A connection (conn) consists of four parts, each with an invariant of its own: its life (the socket, its deadlines
// and its end), input (octets read), output (replies to be written) and transaction.
package wire
