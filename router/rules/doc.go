// Package rules is the rule table: it reads rules files, refuses what is wrong in them by file and line, and answers
// from memory where mail for a forward-path goes. A Table never changes once it is made; whoever reloads makes a new
// one and swaps the pointer.
//
// It knows no clock, no network and no Redis, and never touches the reverse-path: what it is asked depends on the files
// and its Config alone, so the same question has the same answer on every node.
//
// # The file
//
// One statement per line; "#" opens a comment at the start of a line or after a blank, except inside a regex and in the
// text of reject and tempfail, which run to the end of the line.
//
//	domain *            dmarc=enforce                  defaults for all hosted domains; hosts none
//	domain example.com  subaddress=+ dmarc=enforce     hosts example.com
//	info@example.com    alice@mailbox.example          a literal address, which also hosts its domain
//	info@example.com    a@x.example, b@y.example       fan-out
//	info@example.com    try a@x.example, b@y.example   failover
//	info@example.com    reject 550 5.1.1 Moved         tempfail with 4yz; the enhanced code may be left out
//	info@example.com    drop
//	/(.+)-list/@example.com  $1@lists.example          RE2 on the local part, anchored at both ends
//	@example.com        smtp://192.0.2.7:25            catch-all; any target may be a next hop: the recipient is kept
//
// # What matches
//
// Within a domain: the exact literal; postmaster and abuse, when no literal names them, go to the postmaster of the
// Config; the literal without its tag (longest first, where subaddress is set); the regexes in the order of the files;
// the catch-all. Literals are compared without the case of ASCII letters, other octets as they stand; a regex ignores
// case, which "(?-i)" in it turns off. A local part is compared in its meaning: "a\b"@x is ab@x. Domains are compared
// as A-labels in lower case.
//
// # Targets in hosted domains
//
// A target whose domain is hosted here would come back to us, so it is looked up again in place: aliases of aliases
// work, at most MaxChain deep. A loop, or such a target that no rule takes, is an error when the file is loaded. The
// options and the name of the rule that the client's recipient matched stay in force along the chain.
//
// # No open relay
//
// Targets are parsed before anything is substituted, $n may stand in a target's local part only, and what it expands to
// is quoted again. So the host and the domain of every route stand in the file. A local part that reads as a route of
// its own ("%", "!", "@" in it, "-", "|" or "/" before it) is refused to untrusted clients where a target would keep
// it.
package rules
