package command

import (
	"strings"

	"github.com/alecthomas/kong"
)

// fillHelp puts the texts that are too long for a struct tag in the place of @name. The parser's own way, ${name},
// takes regular expressions over all texts of all verbs at each start: a tenth of a second.
func fillHelp(n *kong.Node, all ...map[string]string) {
	fill := func(help *string) {
		name, is := strings.CutPrefix(*help, "@")
		if !is {
			return
		}
		for _, texts := range all {
			if text, ok := texts[name]; ok {
				*help = text
			}
		}
	}
	fill(&n.Help)
	for _, a := range n.Positional {
		fill(&a.Help)
	}
	for _, f := range n.Flags {
		fill(&f.Help)
	}
	for _, c := range n.Children {
		fillHelp(c, all...)
	}
}

// helpTexts returns the help texts that are too long for a struct tag, by the name that stands there as @name.
func helpTexts() map[string]string {
	return map[string]string{
		"init": "Write a configuration, rules, keys and a certificate for a domain, and print what to publish in DNS." +
			" What exists is kept.",
		"init_to":         "Where its mail goes: an address elsewhere, or a host such as smtp://10.0.0.7:25.",
		"init_hostname":   "The name of this node; mx1. and the domain when left out.",
		"init_postmaster": "Who gets mail about this node, in another domain; TARGET when left out.",
		"init_ip": "The address that others see of this node, for the records; once for each. Those of this host when" +
			" left out.",
		"init_group": "The group that may read the secrets, such as the node's; only their owner when left out.",
		"import_postfix": "Read main.cf and the tables that it names, and print rules and a configuration that take " +
			"the same mail to the same places, and what was not converted.",
		"import_out": "The folder to write millrace.yaml and routes.txt to, which has neither; printed when left out.",
		"serve": "Run a node in the foreground; the log goes to stderr. SIGHUP reads rules and " +
			"certificates anew, SIGTERM drains.",
		"check_connect": "Try also what the node needs of others: name servers, Redis, DNS lists, the collector, " +
			"its ports and its credentials at next hops. No mail is begun.",
		"dns_check": "Compare the DNS with what the mail of a domain needs: MX, SPF, DKIM, DMARC, MTA-STS, TLS-RPT, " +
			"PTR, DNS lists, DNSSEC. Exit code: 0 ready, 1 misconfigured, 3 unconfigured, 4 not known.",
		"dns_records": "Print the records that the mail of a domain needs.",
		"dns_apply": "Show what a name server lacks of these records, and with --yes add it by DNS UPDATE (RFC " +
			"2136), " +
			"all or nothing.",
		"dns_ip": "An address that others see of this node; once for each. Without any, those that are known.",
		"dns_selector": "A selector of another service that signs as the domain, whose key is looked at too; once " +
			"for each.",
		"dns_tlsa": "Add the TLSA record of the key of tls.cert, by which senders that obey DANE verify it: only " +
			"where the zone is signed, and to be said only where the key is kept when the certificate is renewed.",
		"dns_format": "bind (a zone file), nsupdate, route53 (a change batch), terraform (aws_route53_record), " +
			"cloudflare (a batch), json.",
		"dns_server": "The primary name server of the zone, with or without a port.",
		"dns_key": "The TSIG key that the server knows us by: what tsig-keygen writes, or a line " +
			"hmac-sha256:NAME:SECRET.",
		"dns_replace": "Put ours in the place of records of others: foreign MX, another SPF record, another key.",
		"explain": "Tell what would become of a message. Exit code: 0 accept or drop, 1 defer, 2 " +
			"reject, 3 no verdict.",
		"explain_at": "Ask by the rules as they begin and end at this time (after=, until=), such as " +
			"2026-12-24T18:00:00Z. All else is of now.",
		"explain_filters": "Show the message to the content filters, which may remember it.",
		"explain_connect": "Offer the recipient to the next hop, as far as RCPT and without a message, and print " +
			"what it says: greeting, EHLO, TLS, MAIL, RCPT.",
		"explain_hooks": "Ask the hook of the recipient's rule, which is not asked otherwise.",
		"explain_here":  "Answer by the files, as a node would that starts now, and do not ask the running node.",
		"explain_message": "A whole message, which is judged and not sent: SPF, DKIM, DMARC, ARC, what would be " +
			"signed; - reads it from stdin. Needs --helo, --from and --to.",
		"explain_user": "Who has logged in, at a listener with submission: true. No password is asked for.",
		"config_show": "Print the settings that the configuration file has, with their places. What may be a secret " +
			"is not shown.",
		"config_effective": "Print what the file leaves out as well, with its default.",
		"rules_show": "Print the rules that a node with this configuration runs, with their version and origin: with " +
			"Redis those that the nodes share, else the files. Nothing is changed.",
		"report_tls": "Print the report on the TLS of sessions with a domain's hosts that the domain would get " +
			"(TLS-RPT), and who reads it. Nothing is sent.",
		"report_dmarc": "Print the report on messages that bear a domain's name that the domain would get (DMARC), " +
			"and who reads it. Nothing is sent.",
		"report_domain": "The domain: of recipients, or that of a DMARC record.",
		"report_day":    "The day of UTC, 2006-01-02: the present one, which is the default, or the one before it.",
		"dev": "Run a node, a name server and destinations of every mood in one process, and show " +
			"what happens.",
		"cluster_init": "Make the files that the nodes of a cluster need: a gossip key, an authority, and a" +
			" certificate and key for each node. What exists is kept, so a later run adds a " +
			"node.",
		"cluster_renew": "Make new certificates, valid for a year, for the keys that the nodes have. Copy each to " +
			"its node and send SIGHUP.",
		"cluster_drain": "Ask a running node to end as at SIGTERM: it hands its destinations to the others " +
			"and finishes what it began. Waits until no client is left.",
		"cluster_keys_show": "Tell the keys of a file apart without showing them, the one in use first. cluster " +
			"status shows the same of a running node.",
		"cluster_keys_add": "Add a new key behind the one in use. First step of a change: then copy the file to" +
			" every node and send SIGHUP.",
		"cluster_keys_use": "Use the added key from now on, and go on understanding the other. Second step, " +
			"when every node has the new key.",
		"cluster_keys_drop": "Forget the key that is no longer used. Third step, when every node uses the new " +
			"one.",
		"dev_quiet":   "Print the addresses alone and, if an outcome of the tour differs from what it should be, that.",
		"key_webhook": "Make a secret for a receiver of events instead, whsec_ and base64.",
		"key_new": "Make a key for srs.key_file or secret_file: 32 random octets. All nodes need the same; to change " +
			"it, put the new line in front of the old one.",
		"user_add": "Add a user to the file of users, or replace one: the password is the first line of stdin. Then" +
			" send SIGHUP to the node.",
		"user_hash": "Print what stands for a password in the file of users: the password is the first line of stdin.",
		"user_file": "The file, users_file of a listener. It is made if there is none.",
		"user_name": "The name that the user logs in with.",
		"user_sends": "What the user sends as: an address, @ and a domain, or to= and an address elsewhere for all" +
			" that the rules send there.",
		"token_new": "Make a token for admin.token_file: 32 random octets; or, with --config, have the running node " +
			"make one with a role, which all nodes know.",
		"token_list":   "List the tokens that nodes have made, without their secrets.",
		"token_revoke": "Revoke a token. It opens nothing from then on, on any node.",
		"token_config": "The configuration file of the running node.",
		"token_name":   "What the token is called in lists and in the audit.",
		"token_role": "read-only (sees), owner (changes rules of its domains), operator (runs the nodes), admin " +
			"(all, tokens as well).",
		"token_domain": "A domain that the token is for, with all below it; once for each. Without any it is for all.",
		"token_for":    "How long it is good, such as 720h; for ever when left out.",
		"token_id":     "The id of the token, as token list prints it.",
		"secret_out":   "Where it goes, printed when left out. A file that exists is kept and is an error.",
		"man_dir":      "The folder to write to, such as /usr/local/share/man/man1; prints one page when left out.",
		"dkim_new": "Make a private key and print the record that publishes its other half. The same " +
			"key signs DKIM and seals ARC.",
		"dkim_rotate": "Make new keys of a domain beside those that sign, and say step by step what to publish, to " +
			"add and, run " +
			"again, to remove.",
		"dkim_new_selector": "The selector, s=. Each key has its own, so that the old and the new one stand side" +
			" by side.",
		"dkim_new_type": "rsa, which everybody verifies, or ed25519 to stand beside it.",
		"dkim_new_bits": "The size of an RSA key, 1024 to 4096. Signing with 2048 takes three times as long " +
			"as with 1024.",
		"dkim_new_out": "Where the private key goes. A file that exists is kept and is an error.",
	}
}
