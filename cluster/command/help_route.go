package command

// routeTexts are those of the verbs that change the rules of a running node.
func routeTexts() map[string]string {
	return map[string]string{
		"node_url": "The node: its admin.tls_addr as https://HOST:PORT, or its admin.addr on this host as " +
			"http://127.0.0.1:PORT.",
		"node_token_file": "The file with the token, such as millrace token new --out wrote; with --url.",
		"route_add": "Add one rule: a line of a rules file, such as info@example.com alice@mailbox.example. A rule " +
			"that is there already is no error.",
		"route_line":  "The line. Words that a shell would change stand in quotes.",
		"route_rm":    "Remove one rule.",
		"route_which": "Its pattern, or its id.",
		"route_list": "List the rules in force on the cluster, whatever made them: those of the files, the API, " +
			"wrangler, Terraform, the dashboard and this command.",
		"route_import": "Add the rules of a file that are not there yet, all at once. Nothing else changes; a rule " +
			"that is there and says something else is an error.",
		"route_export": "Print the rules that the API keeps as a text that plan and apply read.",
		"route_plan": "Show what apply would change: the rules of FILE against those in force that have the owner " +
			"tag. Nothing changes. Exit code: 0 done, 1 something clashes or failed; with --exit-code 3 if " +
			"something differs.",
		"route_apply": "Make the rules with an owner tag what FILE says, all at once or not at all: what is missing " +
			"is added, what differs is changed, what FILE does not have is removed. Rules of others stay as they are.",
		"route_replay": "Say for which messages of the activity log, of all nodes, the rules with FILE differ from " +
			"those in force. Nothing changes.",
		"route_file":       "A text of rules, or what plan --out wrote; - is stdin.",
		"route_import_in":  "A text of rules; - is stdin.",
		"route_owner":      "The tag of those rules that FILE has all of. Each deployer has its own.",
		"route_owner_of":   "Only the rules with this owner tag.",
		"route_owner_add":  "The owner tag that the rules get; none when left out.",
		"route_owner_rm":   "The owner tag that the rule has. One of an owner is removed only if the tag is said.",
		"route_adopt":      "Take over rules that no owner has, where FILE has their pattern.",
		"route_out":        "Write the plan to a file for apply, which refuses it if what it depends on has changed.",
		"route_export_out": "Where the text goes, printed when left out. A file that exists is kept and is an error.",
		"route_exit_code":  "Exit with 3 if something differs.",
		"route_since":      "From when on: a time, or an age such as 24h or 7d.",
		"route_domain":     "Only rules of this domain.",
	}
}
