package command

// migrateTexts returns the help texts of the verbs for a move, as helpTexts does.
func migrateTexts() map[string]string {
	return map[string]string{
		"import_cloudflare": "Rules that take the same mail to the same places as Cloudflare's Email " +
			"Routing, of its API or of answers of it that were saved.",
		"import_cloudflare_files": "Answers of the API: rules, catch-all, destination addresses, settings. " +
			"Without any the API is asked.",
		"import_token_file": "The file of a token that may read Email Routing of the zone; " +
			"CLOUDFLARE_API_TOKEN of the environment when left out.",
		"import_improvmx": "Rules that take the same mail to the same places as ImprovMX does for a domain.",
		"import_improvmx_files": "Comma-separated values, alias and forward, or answers of its API for the " +
			"aliases of the domain.",
		"import_addy":       "Rules that take the same mail to the same places as addy.io, for custom domains.",
		"import_addy_files": "The aliases as addy.io exports them.",
		"import_addy_to":    "The default recipient: the file does not say where aliases go.",
		"import_forward_email": "Rules that take the same mail to the same places as the TXT records of " +
			"Forward Email.",
		"import_forward_email_file": "TXT records, as lines of a zone file or of dig; - is stdin. Looked up when " +
			"left out.",
		"egress_list": "Print the addresses that mail of the nodes comes from, for those who let it in: as a list, " +
			"as a table for Postfix, as rules for nftables, as an SPF record.",
		"egress_cluster": "Ask the running node of -c, and by it all nodes of its cluster, in place of configurations.",
		"egress_config":  "The configuration of a node; once for each node of a cluster.",
		"egress_ip":      "An address besides those, or in place of a configuration; once for each.",
		"egress_format":  "text, json, postfix (a table for check_client_access), nftables or spf.",
		"migrate_plan": "Print the steps in which a domain moves to a node: when, what to do, what has to be so " +
			"before the next, and the way back. The times come from the TTL of the MX records that there are.",
		"migrate_watch": "Ask resolvers for the MX hosts of a domain until all of them see a new one.",
		"migrate_rollback": "The file to write that brings today's MX records back, for nsupdate. One that exists " +
			"is kept and is an error.",
		"migrate_resolver": "A name server to ask in place of dns.servers; one of the domain's own tells the whole " +
			"TTL.",
		"watch_resolver": "A recursive name server to ask; once for each. Four public ones when left out.",
		"watch_every":    "The time between two looks; until the first resolver forgets the old records when left out.",
		"reconcile": "Compare what destinations took, by the log of the nodes, with what their own log says: " +
			"messages that are missing there, were not delivered, or came by another way.",
		"reconcile_log": "The log of the nodes, JSON lines or Postfix's form; stdin when left out.",
		"reconcile_maillog": "The log of the destination, of Postfix, Exim or Dovecot's LMTP server; once for each " +
			"file.",
		"reconcile_next_hop": "The next hop whose log it is, as it stands in the log of the nodes. When left out, " +
			"those of which it has a message.",
		"reconcile_zone": "The time zone of lines without one, such as Europe/Berlin.",
		"check_mynetworks": "Find networks in a file of Postfix that mail of ours does not come from, and those that " +
			"let others relay.",
		"mynetworks_file": "main.cf, a list of networks, or a table of the type cidr.",
		"dns_servers": "A recursive name server to ask; once for each. Those of this machine when " +
			"left out.",
	}
}
