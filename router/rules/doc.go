// Package rules is the rule table.
//
// It owns the language of rules files and its meaning: it reads the files, refuses what is wrong in them by file and
// line, and answers from memory where mail for a forward-path goes. It refuses to know the clock, the network and
// Redis, and never touches the reverse-path.
//
// Invariants: a Table never changes once it is made. A reload makes a new one and swaps the pointer. An answer depends
// on the files and the Config alone, so the same query has the same answer on every node.
//
// # The file
//
// A line has one statement. "#" begins a comment at the start of a line or after a blank, except inside a regex and in
// the text of reject and tempfail, which run to the end of the line.
//
//	domain *            dmarc=enforce                  defaults for all hosted domains; hosts none
//	domain example.com  subaddress=+ dmarc=enforce     hosts example.com
//	info@example.com    alice@mailbox.example          a literal address, which also hosts its domain
//	info@example.com    a@x.example, b@y.example       fan-out
//	info@example.com    try a@x.example, b@y.example   failover
//	info@example.com    reject 550 5.1.1 Moved         tempfail with 4yz; the enhanced code may be left out
//	info@example.com    drop
//	sales-*@example.com crm+$1@y.example               a glob: a star is for any text
//	/(.+)-list/@example.com  $1@lists.example          RE2 on the local part, anchored at both ends
//	info@example.com    x@y.example  until=TIME        or after=TIME, enabled=no; also in front of any action
//	info@example.com    if spf=pass  x@y.example       for some senders and clients alone
//	@example.com        smtp://192.0.2.7:25            catch-all; any target may be a next hop: the recipient is kept
//	@*.example.com      x@y.example                    catch-all of all domains below another, which it hosts
//	domain b.example    alias_of=example.com           every rule and option of example.com holds for b.example
//	block @s.example    for=@example.com               refuses senders; for= may name an address, or be left out
//	relay @example.org  smtp://192.0.2.8               mail of trusted clients to a domain that is not ours
//	relay *             submission://u@smart.example   and to all domains without such a line
//
// # When a rule is in force
//
// A rule may have a schedule and, behind if, tests of the query: see condition. One that is not in force is passed
// over, and a pattern may have several rules, of which at most one has no condition. It is asked last.
//
// # What matches
//
// A domain with alias_of is asked about as the one that it names. Within a domain the first of these matches: the exact
// literal; the postmaster of the Config for postmaster and abuse; the literal without its tag (longest first, where
// subaddress is set); the globs, that with most text first; the regexes in the order of the files; the catch-all; those
// of the domains above. Literals are compared without the case of ASCII letters and with all other octets. A regex
// ignores case, which "(?-i)" in it disables. A local part is compared in its meaning: "a\b"@x is ab@x. Domains are
// compared as A-labels in lower case.
//
// # Targets in hosted domains
//
// A target whose domain is hosted here would come back to us, so it is looked up again at once: aliases of aliases
// work, at most MaxChain deep. A loop, or a target there that no rule takes, is an error when the file is loaded. The
// options and the name of the rule that the client's recipient matched stay in force along the chain.
//
// # Lists
//
// The targets of try are used in turn, each if those before it fail before the message. One that a rule refuses is
// passed over. A target may be an alias of one next hop, or of another list, which goes on with the outer one.
//
// # No open relay
//
// Targets are parsed before anything is substituted, $n is allowed in a target's local part only, and what it expands
// to is quoted again. So the host and the domain of every route are written in the file. A local part that reads as a
// route of its own ("%", "!" or "@" in it, "-", "|" or "/" at its start) is refused for untrusted clients where a
// target would keep it. Relay lines are asked in one place, Table.foreign, which refuses clients that are not trusted
// before it looks at them; no target leads to them.
package rules
