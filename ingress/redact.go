package ingress

import (
	"strings"

	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// redact returns the text of a next hop's reply as a stranger may read it, by what is allowed: words of letters with
// ordinary punctuation stay, and the destination's address becomes what the client wrote. All else goes, because it may
// be a form of that address. A word that is a piece of the address would be missed where it stood, so that a fixed text
// stands for all of the text then.
func redact(r mail.Reply, rcpts []message.Recipient) string {
	var b strings.Builder
	b.Grow(len(r.Text))
	for line := range strings.SplitSeq(r.Text, "\n") {
		before := b.Len()
		for token := range strings.FieldsSeq(line) {
			from, to := core(token)
			word, kept := token[from:to], true
			if forward, ok := writtenAs(word, rcpts); ok {
				word = forward
			} else if kept = isOrdinary(word); kept && betrays(word, rcpts) {
				return fixedText(r)
			}
			if !kept {
				continue
			}
			switch {
			case b.Len() > before:
				b.WriteByte(' ')
			case before > 0:
				b.WriteByte('\n')
			}
			b.WriteString(token[:from])
			b.WriteString(word)
			b.WriteString(token[to:])
		}
	}
	if b.Len() == 0 {
		return fixedText(r)
	}
	return b.String()
}

// core returns where a token begins and ends without the punctuation around it.
func core(token string) (from, to int) {
	to = len(token)
	for from < to && strings.IndexByte(`<("'`, token[from]) >= 0 {
		from++
	}
	for from < to && strings.IndexByte(`>)"'.,;:!?`, token[to-1]) >= 0 {
		to--
	}
	return from, to
}

// writtenAs returns the recipient as the client wrote it if word is the address of its destination.
func writtenAs(word string, rcpts []message.Recipient) (forward string, ok bool) {
	at := strings.LastIndexByte(word, '@')
	if at < 0 {
		return "", false
	}
	for i := range rcpts {
		for _, f := range rcpts[i].Route.Forwards {
			if strings.EqualFold(word[at+1:], f.Domain) &&
				(strings.EqualFold(word[:at], f.Local) || strings.EqualFold(word[:at], f.LocalPart())) {
				return rcpts[i].Forward.String(), true
			}
		}
	}
	return "", false
}

// hexLetters is the length from which a word of the letters a to f alone is taken for a number.
const hexLetters = 8

// isOrdinary reports whether word is made of words of letters with ordinary punctuation between them.
func isOrdinary(word string) bool {
	letters, hex := 0, true
	for i := range len(word) {
		c := word[i] | 0x20
		switch {
		case 'a' <= c && c <= 'z' && word[i] < 0x80:
			letters++
			hex = hex && c <= 'f'
			continue
		case strings.IndexByte(between, word[i]) < 0:
			return false
		}
		if hex && letters >= hexLetters {
			return false
		}
		letters, hex = 0, true
	}
	return !hex || letters < hexLetters
}

// between are the punctuation marks that may stand between the words of a token.
const between = `-'/,;:!?()"<>`

// betrays reports whether word, or one of the words that it is made of, is a piece of the address of a destination
// that a rule wrote.
func betrays(word string, rcpts []message.Recipient) bool {
	for i := range rcpts {
		if !rcpts[i].Route.Rewrote {
			continue
		}
		for _, f := range rcpts[i].Route.Forwards {
			if sharesPiece(word, f.LocalPart()) || sharesPiece(word, f.Domain) {
				return true
			}
		}
	}
	return false
}

// minPiece is the length from which a part of an address is told apart from any word.
const minPiece = 3

// sharesPiece reports whether a run of letters in a word is one in a part of an address as well.
func sharesPiece(word, part string) bool {
	for rest := word; rest != ""; {
		var w string
		if w, rest = cutLetters(rest); len(w) < minPiece {
			continue
		}
		for left := part; left != ""; {
			var piece string
			if piece, left = cutLetters(left); strings.EqualFold(w, piece) {
				return true
			}
		}
	}
	return false
}

// cutLetters returns the first run of ASCII letters in s, and what is behind it.
func cutLetters(s string) (run, rest string) {
	from := 0
	for from < len(s) && !ascii.IsAlpha(s[from]) {
		from++
	}
	to := from
	for to < len(s) && ascii.IsAlpha(s[to]) {
		to++
	}
	return s[from:to], s[to:]
}

// fixedTexts are the texts that stand for a next hop's own, by the enhanced code (RFC 3463 section 3).
var fixedTexts = map[mail.EnhancedCode]string{
	{Subject: 1, Detail: 1}:  "No such mailbox",
	{Subject: 1, Detail: 2}:  "No such system",
	{Subject: 1, Detail: 3}:  "Mailbox address not understood",
	{Subject: 1, Detail: 6}:  "Mailbox has moved",
	{Subject: 1, Detail: 7}:  "Sender's address not understood",
	{Subject: 1, Detail: 8}:  "Sender's system not known",
	{Subject: 1, Detail: 10}: "No mail is accepted for this domain",
	{Subject: 2, Detail: 1}:  "Mailbox disabled",
	{Subject: 2, Detail: 2}:  "Mailbox full",
	{Subject: 2, Detail: 3}:  "Message too large for this mailbox",
	{Subject: 3, Detail: 1}:  "Mail system full",
	{Subject: 3, Detail: 2}:  "Mail system not accepting messages",
	{Subject: 3, Detail: 4}:  "Message too large",
	{Subject: 4, Detail: 1}:  "Destination did not answer",
	{Subject: 4, Detail: 2}:  "Connection to the destination was lost",
	{Subject: 4, Detail: 3}:  "DNS look-up of the destination failed",
	{Subject: 4, Detail: 5}:  "Destination is busy",
	{Subject: 5, Detail: 3}:  mail.OwnTransaction,
	{Subject: 6, Detail: 0}:  "Content not accepted",
	{Subject: 7, Detail: 1}:  "Message refused by the policy of the destination",
	{Subject: 7, Detail: 20}: "No DKIM signature that passes",
	{Subject: 7, Detail: 23}: "SPF failed",
	{Subject: 7, Detail: 26}: "Authentication of the message failed",
}

// fixedText returns the text that stands for that of a next hop's reply. It depends on the code and the enhanced code
// alone.
func fixedText(r mail.Reply) string {
	if r.Class() == 2 {
		return "OK"
	}
	if text, ok := fixedTexts[r.Enhanced]; ok {
		return text
	}
	if r.Class() == 4 {
		return "Not accepted by the destination for now"
	}
	return "Refused by the destination"
}
