package migrate

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
)

// An expression is one that its service searches in a local part without its tag, in lower case. Rules match the whole
// local part, with its tag.
type expression struct {
	text   string
	re     *regexp.Regexp
	groups int
}

// expressionFlags are those of rules: without case.
const expressionFlags = syntax.Perl | syntax.FoldCase

// newExpression parses an expression.
func newExpression(text string) (*expression, error) {
	if _, err := syntax.Parse(text, expressionFlags); err != nil {
		return nil, err
	}
	re, err := regexp.Compile("(?i:" + text + ")")
	if err != nil {
		return nil, err
	}
	return &expression{text, re, re.NumSubexp()}, nil
}

// oddDollar finds what stands for something else than a group in a replacement.
var oddDollar = regexp.MustCompile(`\$[^1-9]|\$$`)

// replace returns what a replacement makes of a local part: the part that matched is replaced where it has groups, and
// all of it where it has none. to is empty for a replacement that is not known here. ok is false if nothing matches.
func (e *expression) replace(user, replacement string) (to string, ok bool) {
	at := e.re.FindStringSubmatchIndex(user)
	switch {
	case user == "" || at == nil:
		return "", false
	case !strings.Contains(replacement, "$"):
		return replacement, true
	case oddDollar.MatchString(replacement):
		return "", true
	}
	var b strings.Builder
	b.WriteString(user[:at[0]])
	for i := 0; i < len(replacement); i++ {
		if replacement[i] != '$' {
			b.WriteByte(replacement[i])
			continue
		}
		i++
		n := int(replacement[i] - '0')
		if n > e.groups {
			return "", true
		}
		if at[2*n] >= 0 {
			b.WriteString(user[at[2*n]:at[2*n+1]])
		}
	}
	b.WriteString(user[at[1]:])
	return b.String(), true
}

// whole returns the expression as rules have it. ok is false if there is none that matches the same: where a start or
// an end stands in the middle, or where a replacement with groups leaves a part of the local part that did not match.
func (e *expression) whole(replacement string) (text string, ok bool) {
	tree, err := syntax.Parse(e.text, expressionFlags)
	if err != nil {
		return "", false
	}
	begins, ok := cutEnd(tree, syntax.OpBeginText)
	if !ok {
		return "", false
	}
	ends, ok := cutEnd(tree, syntax.OpEndText)
	if !ok || strings.Contains(replacement, "$") && !(begins && ends) {
		return "", false
	}
	withoutPlus(tree)
	body := tree.String()
	if !begins {
		body = "[^+]*" + "(?:" + body + ")"
	}
	if !ends {
		body = "(?:" + body + ")[^+]*"
	}
	text = "(?:" + body + `)(?:\+.*)?`
	if _, err := syntax.Parse(text, expressionFlags); err != nil || !isOneLine(text) {
		return "", false
	}
	return text, true
}

// cutEnd takes a start or an end of the text out of where an expression begins or ends, and reports whether it was
// there. ok is false if it stands elsewhere, or in some alternatives alone.
func cutEnd(tree *syntax.Regexp, end syntax.Op) (cut, ok bool) {
	at := 0
	switch tree.Op {
	case end:
		tree.Op, tree.Flags = syntax.OpEmptyMatch, 0
		return true, true
	case syntax.OpConcat:
		if end == syntax.OpEndText {
			at = len(tree.Sub) - 1
		}
		for i, sub := range tree.Sub {
			if i != at && hasEnd(sub, end) {
				return false, false
			}
		}
		if len(tree.Sub) > 1 && tree.Sub[at].Op == end {
			tree.Sub = slices.Delete(tree.Sub, at, at+1)
			return true, true
		}
		return cutEnd(tree.Sub[at], end)
	case syntax.OpCapture:
		return cutEnd(tree.Sub[0], end)
	case syntax.OpAlternate:
		all := 0
		for _, sub := range tree.Sub {
			cut, ok := cutEnd(sub, end)
			if !ok {
				return false, false
			}
			if cut {
				all++
			}
		}
		return all > 0, all == 0 || all == len(tree.Sub)
	}
	return false, !hasEnd(tree, end)
}

// hasEnd reports whether a start or an end of the text, or of a line, stands in an expression.
func hasEnd(tree *syntax.Regexp, end syntax.Op) bool {
	return tree.Op == end || tree.Op == syntax.OpBeginLine || tree.Op == syntax.OpEndLine ||
		slices.ContainsFunc(tree.Sub, func(sub *syntax.Regexp) bool { return hasEnd(sub, end) })
}

// withoutPlus has an expression match no plus sign: a tag begins there, which its service has cut off.
func withoutPlus(tree *syntax.Regexp) {
	switch tree.Op {
	case syntax.OpLiteral:
		if slices.Contains(tree.Rune, '+') {
			tree.Op, tree.Rune = syntax.OpNoMatch, nil
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		tree.Op, tree.Rune = syntax.OpCharClass, []rune{0, '+' - 1, '+' + 1, unicode.MaxRune}
	case syntax.OpCharClass:
		var kept []rune
		for i := 0; i+1 < len(tree.Rune); i += 2 {
			low, high := tree.Rune[i], tree.Rune[i+1]
			if low > '+' || high < '+' {
				kept = append(kept, low, high)
				continue
			}
			if low < '+' {
				kept = append(kept, low, '+'-1)
			}
			if high > '+' {
				kept = append(kept, '+'+1, high)
			}
		}
		tree.Rune = kept
		if len(kept) == 0 {
			tree.Op = syntax.OpNoMatch
		}
	}
	for _, sub := range tree.Sub {
		withoutPlus(sub)
	}
}
