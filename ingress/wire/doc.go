// Package wire is the server side of SMTP as it looks on the wire (RFC 5321): connections and their caps, command
// lines, replies and their batches, STARTTLS, DATA and BDAT, the PROXY protocol header and XCLIENT. It owns syntax,
// order, limits and time-outs, and the octets of a message from the socket to the slab in which its Session sees them.
//
// It knows no policy. Which client, reverse-path, recipient or message is welcome is the Session's to say, one method
// per verb; wire turns the error it returns into a reply by mail.ReplyFor and by nothing else.
//
// Its invariants:
//   - Only CRLF.CRLF ends a message that came by DATA, only the announced count one that came by BDAT. Whatever the input and
//     however it is cut into reads, the scanner finds the same end, and a message with a bare CR or LF is refused.
//   - No octet of a message is ever read as a command: where the end of a message was not seen, the connection is closed.
//   - Nothing that came in clear behind STARTTLS is read after it.
//   - A message gets a 2yz only after its Session saw all of it.
//   - One goroutine at a time per connection and one call stack per message; while it waits for a command, a connection keeps a
//     read buffer of 512 octets and nothing else of size, and one that is delayed on purpose what its client sent ahead as well.
package wire
