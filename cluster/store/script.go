package store

import (
	"crypto/sha1"
	_ "embed" // for the scripts, which are files
	"encoding/hex"
)

//go:embed lua/clock.lua
var clockLua string

//go:embed lua/gcra.lua
var gcraLua string

//go:embed lua/lists.lua
var listsLua string

//go:embed lua/karma.lua
var karmaLua string

//go:embed lua/client.lua
var clientLua string

//go:embed lua/rates.lua
var ratesLua string

//go:embed lua/look.lua
var lookLua string

//go:embed lua/put.lua
var putLua string

//go:embed lua/vote.lua
var voteLua string

//go:embed lua/know.lua
var knowLua string

//go:embed lua/grey.lua
var greyLua string

//go:embed lua/rulehead.lua
var ruleheadLua string

//go:embed lua/rules.lua
var rulesLua string

//go:embed lua/part.lua
var partLua string

//go:embed lua/publish.lua
var publishLua string

//go:embed lua/ledger.lua
var ledgerLua string

// A script is a script that Redis runs atomically, and the SHA-1 of its source, by which Redis names it.
type script struct{ source, sha string }

// newScript returns the script whose source is clock.lua and then parts.
func newScript(parts ...string) script {
	source := clockLua
	for _, p := range parts {
		source += p
	}
	sum := sha1.Sum([]byte(source))
	return script{source, hex.EncodeToString(sum[:])}
}

// The scripts are all scripts of a store. Its only other commands are SET, DEL, EXISTS and HMGET.
type scripts struct{ client, rates, look, put, vote, know, grey, ledger, rules, part, publish script }

func newScripts() scripts {
	return scripts{
		client: newScript(gcraLua, listsLua, karmaLua, clientLua),
		rates:  newScript(gcraLua, ratesLua),
		look:   newScript(listsLua, lookLua),
		put:    newScript(listsLua, putLua),
		vote:   newScript(karmaLua, voteLua),
		know:   newScript(knowLua),
		grey:   newScript(greyLua),
		ledger: newScript(ledgerLua),

		rules:   newScript(ruleheadLua, rulesLua),
		part:    newScript(partLua),
		publish: newScript(ruleheadLua, publishLua),
	}
}
