package command

// checkTexts are those of the verbs that look at the network.
func checkTexts() map[string]string {
	return map[string]string{
		"check_files": "Validate a configuration and the rules it names: what millrace check does without another " +
			"word.",
		"check_target": "Go to a next hop as mail would, from every node of the cluster, and say what happens at " +
			"each step: connection, greeting, EHLO, TLS, certificate, login and, with --to, RCPT. No message is sent.",
		"check_target_hop": "A domain, or a next hop as a rule names it, such as smtp://10.0.0.7:25.",
		"check_target_to":  "A recipient to offer there.",
		"check_egress": "Say whether the port of mail hosts (25) can be reached from each address of ours, why not, " +
			"and whether the names of these addresses fit (PTR, EHLO). No message is sent.",
		"check_egress_at": "A domain or a next hop to try, in place of large providers; once for each.",
		"check_egress_beside": "A next hop at another port, such as smtp://mx.example.org:587, which shows whether " +
			"it is the port that is blocked; once for each.",
		"check_ingress": "Have the other nodes of the cluster connect to this one as senders do, by its hostname, " +
			"and say what they meet.",
		"check_here": "Look from this process alone, without a running node.",
		"check_wait": "Seconds that each address has, at most 60.",
		"check_relay": "Try on a host, from here, the tricks by which a stranger has it relay mail. No message is " +
			"sent: each trick ends before DATA. Ask only hosts that are yours.",
		"check_relay_domain": "A domain that the host takes mail for; the name in its greeting when left out.",
		"check_relay_to":     "A mailbox that is not the host's, best one of yours.",
		"check_relay_helo":   "Our name in EHLO; that of this machine when left out.",
		"check_relay_all":    "Print all tricks, not only those that were not refused.",
	}
}
