package main_test

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// docs/postmaster.md has a row for each reply that the code makes, and docs/postmaster.ja.md one for each that refuses.
// The rows come from the code, the words in them are written by hand: WRITE=1 (make docs) writes the rows anew and
// keeps the words. It writes them into the table of the public pages as well, which say the same for that reason.

// A repliesPage is a page of replies.
type repliesPage struct {
	file    string
	heads   string // of its columns
	columns int    // of words
	classes string // of the replies that stand there
}

// repliesPages are the pages of replies, that in English first.
var repliesPages = []repliesPage{
	{"docs/postmaster.md", "| Reply | Cause | The sender | The administrator of this relay |", 3, "2345X"},
	{"docs/postmaster.ja.md", "| 応答 | 理由 | 送信者ができること |", 2, "45X"},
}

// repliesTable is the table of the public pages.
const repliesTable = "cluster/public/replies.tsv"

// differs stands for what is another text each time.
const differs = "…"

// TestPostmaster: each reply of the code has its row on the page, with words in each column, and no row stands there
// that the code has no reply for.
func TestPostmaster(t *testing.T) {
	made, findings := madeReplies(tree(t))
	if len(made) < 120 {
		t.Errorf("only %d replies were found", len(made))
	}
	for _, finding := range findings {
		t.Error(finding)
	}
	pages := make([]string, len(repliesPages))
	for i, p := range repliesPages {
		if pages[i], findings = composePage(p, read(t, p.file), made); len(findings) > 0 {
			t.Errorf("%q: write what each new row means, in each language", findings)
		}
		isComposed(t, p.file, pages[i])
	}
	isComposed(t, repliesTable, composeTable(made, pages))
}

// isComposed requires that a file is as it is composed, or writes it.
func isComposed(t *testing.T, file, composed string) {
	t.Helper()
	if content, _ := os.ReadFile(file); string(content) == composed {
		return
	}
	if os.Getenv("WRITE") == "" {
		t.Errorf("%s is not what the code makes: run make docs, and write what each new row means", file)
		return
	}
	if err := os.WriteFile(file, []byte(composed), 0o644); err != nil {
		t.Fatal(err)
	}
}

// composeTable returns the table of the public pages: each reply that refuses, with its cause and what its sender can
// do, in the words of each page.
func composeTable(made []madeReply, pages []string) string {
	var b strings.Builder
	b.WriteString("# The replies of docs/postmaster.md and docs/postmaster.ja.md with their words. make docs writes " +
		"it.\n")
	plain := strings.NewReplacer("`", "", `\|`, "|", "\t", " ")
	for _, r := range made {
		if !strings.Contains("45X", r.code[:1]) {
			continue
		}
		cells := []string{r.String()}
		for _, page := range pages {
			words := strings.Split(wordsOf(page)[r.String()], " | ")
			for len(words) < 2 {
				words = append(words, "")
			}
			cells = append(cells, plain.Replace(words[0]), plain.Replace(strings.TrimSuffix(words[1], " |")))
		}
		b.WriteString(strings.Join(cells, "\t") + "\n")
	}
	return b.String()
}

// wordsOf returns the words of the rows of a page, by the reply.
func wordsOf(page string) map[string]string {
	words := make(map[string]string)
	for line := range strings.Lines(page) {
		if key, rest, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "` | "); ok && strings.HasPrefix(line, "| `") {
			words[key] = strings.TrimRight(rest, "\n")
		}
	}
	return words
}

// A madeReply is one that the code can make.
type madeReply struct {
	code     string // of three digits
	enhanced string // "" where the reply has none
	text     string // differs stands in it for what is another each time
}

func (r madeReply) String() string {
	return strings.TrimPrefix(strings.Join(strings.Fields(r.code+" "+r.enhanced+" "+r.text), " "), "X ")
}

// A maker is a function that makes a reply of its arguments: where each part stands, or what it is.
type maker struct {
	code, subject, detail, text string
	arguments                   int
}

// makers are the functions that make replies, by name.
var makers = map[string]maker{
	"NewReply":   {"#0", "#1", "#2", "#3", 4},
	"Refuse":     {"#0", "#1", "#2", "#3", 6},
	"ownRefusal": {"#0", "#1", "#2", "#3", 5},
	"lacks":      {"451 550", "6", "#0", "#1", 3},
	"noDomain":   {"550", "1", "2", "#1", 3},
	"errAuthor":  {"550", "7", "1", "#0", 1},
}

// said are the replies of functions that put them together from more than literals, by file and function. The parts
// between what differs have to stand in that folder.
var said = map[string][]string{
	"ingress/client/rate/refusal.go refusal": {
		"450 4.7.1 Too many connections from …, try again in … seconds",
		"450 4.7.1 Too many messages from …, try again in … seconds",
		"450 4.7.1 Too many messages from this sender's domain, try again in … seconds",
		"450 4.7.1 Too many messages to this domain, try again in … seconds",
		"450 4.7.1 Too many messages to this recipient, try again in … seconds",
		"450 4.7.1 Too many messages, try again in … seconds",
		"450 4.7.1 Too many recipients from …, try again in … seconds",
		"450 4.7.1 Too many refused recipients from …, try again in … seconds",
		"450 4.7.1 Too many transactions without a message from …, try again in … seconds",
	},
	"ingress/client/score/refusal.go Refusal": {
		"450 4.7.1 … deferred: …, try again later", "450 4.7.1 … listed by … (code …), try again later",
		"554 5.7.1 … listed by … (code …)", "554 5.7.1 … refused: …",
	},
	"ingress/client/score/refusal.go Unsure": {
		"450 4.7.1 … deferred: a DNS list could not be asked about it now, try again later",
	},
	"ingress/message/auth/judge.go requireAuthRefusal": {
		"550 5.7.26 This message is not authenticated: SPF of the reverse-path is …, SPF of HELO is …, DKIM is …",
	},
	"ingress/message/auth/judge.go dmarcRefusal": {
		"550 5.7.26 The DMARC policy of … rejects this message: neither SPF nor DKIM authenticates that domain",
		"550 5.7.26 The DMARC policy of … quarantines this message: neither SPF nor DKIM authenticates that domain",
		"451 4.7.0 DMARC cannot be checked now: …, try again later",
	},
	"ingress/message/once/ledger.go Claim": {"250 2.0.0 Delivered before"},
	"ingress/wire/bdat.go appendReceived":  {"250 2.0.0 … octets received"},
	"ingress/wire/replies.go appendEHLO":   {"250 …"},
	"ingress/wire/replies.go appendHELO":   {"250 …"},
	"ingress/wire/replies.go appendGreeting": {
		"220 … ESMTP",
	},
	"ingress/submission/author.go errAuthor": nil, // those of its callers
	"ingress/redact.go fixedText": {
		"4yz Not accepted by the destination for now", "5yz Refused by the destination",
	},
	"router/rules/target.go parseReply": {
		"550 5.7.1 Address refused", "450 4.7.1 Address refused for now, try again later",
	},
	"egress/decide/json.go reply": {
		"550 5.7.1 Address refused", "450 4.7.1 Address refused for now, try again later",
	},

	// The same reply with another code.
	"ingress/wire/helo.go greet":  nil, // 421 and 554 in front of the session
	"ingress/data.go judgeEnding": nil, // the next hop's 2yz as 250

	"ingress/message/filter/field.go replyOf":           nil, // a content filter's own
	"ingress/message/filter/rspamdreply.go parseRspamd": nil,

	"egress/smtpclient/refusal.go refusedBy": nil, // the next hop's 421 as 451, and its 4yz about a number as 452
	"egress/smtpclient/reply.go mail":        nil, // the next hop's own
}

// noAnswers are places that make replies which no client is answered.
var noAnswers = []string{
	"cluster/dev", "cluster/node/postfix.go", "cluster/node/look.go", "cluster/node/teller.go", "egress/smtptest",
	"egress/dns/dnstest",
	"ingress/ingresstest", "cluster/gossiptest", "cluster/logtest", "router/mail/reply.go NewReply",
	"router/mail/reply.go Refuse",
}

// madeReplies returns each reply that the code of a node makes, once, in order, and what could not be read.
func madeReplies(sources []source) (all []madeReply, findings []string) {
	r := replyReader{constants: stringConstants(sources), literals: make(map[string]string)}
	for _, s := range sources {
		if !s.test() {
			r.literals[s.dir()] += literalsOf(s.ast)
		}
	}
	for _, s := range sources {
		if s.test() || !under(s.dir(), "ingress", "egress", "router", "cluster") {
			continue
		}
		for _, decl := range s.ast.Decls {
			name := ""
			if f, ok := decl.(*ast.FuncDecl); ok {
				name = f.Name.Name
			}
			r.read(s, name, decl)
		}
	}
	for place, replies := range said {
		file, _, _ := strings.Cut(place, " ")
		for _, reply := range replies {
			r.findings = append(r.findings, unsaid(place, reply, r.literals[path.Dir(file)])...)
			r.add(reply)
		}
	}
	slices.SortFunc(r.all, func(a, b madeReply) int { return cmp.Compare(sortKey(a), sortKey(b)) })
	return slices.Compact(r.all), r.findings
}

// unsaid finds the words of a reply that no literal of its folder has.
func unsaid(place, reply, literals string) (findings []string) {
	text := replyForm.ReplaceAllString(reply, "")
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) }) {
		if len(word) > 3 && !strings.Contains(literals, word) {
			findings = append(findings, fmt.Sprintf("%s: no literal has the %q of %q", place, word, reply))
		}
	}
	return findings
}

// replyForm is what stands before the text of a reply.
var replyForm = regexp.MustCompile(`^[2-5](?:\d\d|yz) (?:[245]\.\d+\.\d+ )?`)

// sortKey sorts replies by code, then by enhanced code, then by text.
func sortKey(r madeReply) string {
	key := r.code
	for part := range strings.SplitSeq(r.enhanced, ".") {
		n, _ := strconv.Atoi(part)
		key += fmt.Sprintf(" %03d", n)
	}
	return key + " " + strings.ToLower(r.text)
}

// stringConstants returns the values of constants, by package and name.
func stringConstants(sources []source) map[string]string {
	out := make(map[string]string)
	for _, s := range sources {
		ast.Inspect(s.ast, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for i, name := range spec.Names {
				if i < len(spec.Values) {
					if l, ok := spec.Values[i].(*ast.BasicLit); ok && l.Kind == token.STRING {
						out[s.ast.Name.Name+"."+name.Name], _ = strconv.Unquote(l.Value)
					}
				}
			}
			return true
		})
	}
	return out
}

func literalsOf(file *ast.File) string {
	var b strings.Builder
	ast.Inspect(file, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
			text, _ := strconv.Unquote(l.Value)
			b.WriteString(text + "\n")
		}
		return true
	})
	return b.String()
}

// A replyReader goes through the code.
type replyReader struct {
	constants map[string]string
	literals  map[string]string // all of a folder
	all       []madeReply
	findings  []string
}

// add adds a reply as it is written.
func (r *replyReader) add(reply string) {
	code, text, _ := strings.Cut(reply, " ")
	made := madeReply{code: code, text: text}
	if enhanced, rest, _ := strings.Cut(text, " "); enhancedForm.MatchString(enhanced) {
		made.enhanced, made.text = enhanced, rest
	}
	r.all = append(r.all, made)
}

var enhancedForm = regexp.MustCompile(`^[245]\.\d+\.\d+$`)

// read reads one declaration of a file.
func (r *replyReader) read(s source, name string, decl ast.Decl) {
	place := s.path + " " + name
	if slices.ContainsFunc(noAnswers, func(n string) bool { return n == place || n == s.path || under(s.dir(), n) }) {
		return
	}
	_, known := said[place]
	finding := func(n ast.Node, what string) {
		if !known {
			r.findings = append(r.findings, s.at(n.Pos(), what+": list what it says in said of docs_replies_test.go"))
		}
	}
	ast.Inspect(decl, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.CallExpr:
			m, ok := makers[calledName(x)]
			if _, inside := makers[name]; !ok || inside || len(x.Args) != m.arguments {
				return true
			}
			if !r.call(s, x, m, known) {
				finding(x, "a reply is made of more than literals")
			}
		case *ast.ValueSpec:
			if x.Names[0].Name == "fixedTexts" {
				r.fixedTexts(s, x)
			}
		case *ast.CompositeLit:
			if isReply(x) && len(x.Elts) > 0 {
				finding(x, "a reply is put together")
			}
		case *ast.AssignStmt:
			if f, ok := x.Lhs[0].(*ast.SelectorExpr); ok && f.Sel.Name == "Code" {
				if _, literal := x.Rhs[0].(*ast.BasicLit); literal {
					finding(x, "the code of a reply is changed")
				}
			}
		case *ast.BasicLit:
			text, err := strconv.Unquote(x.Value)
			if err == nil && x.Kind == token.STRING && s.dir() == "ingress/wire" && rawReply.MatchString(text) {
				finding(x, "a reply is written by itself")
			}
		}
		return true
	})
}

// fixedTexts adds the texts that stand for those of destinations, by enhanced code. Their class is the destination's.
func (r *replyReader) fixedTexts(s source, spec *ast.ValueSpec) {
	texts, _ := spec.Values[0].(*ast.CompositeLit)
	for _, e := range texts.Elts {
		kv, _ := e.(*ast.KeyValueExpr)
		made := madeReply{code: "X", enhanced: "X", text: r.text(s, kv.Value)}
		code, _ := kv.Key.(*ast.CompositeLit)
		for _, number := range code.Elts {
			if n, ok := number.(*ast.KeyValueExpr); ok {
				l, _ := n.Value.(*ast.BasicLit)
				made.enhanced += "." + l.Value
			}
		}
		r.all = append(r.all, made)
	}
}

// rawReply is how a reply begins on the wire.
var rawReply = regexp.MustCompile(`^[2-5]\d\d[ -]$`)

// calledName returns the name of the function that is called, without its package or receiver.
func calledName(x *ast.CallExpr) string {
	switch f := x.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// isReply reports whether a literal is a reply, of ours or of the library for submission, with a code.
func isReply(x *ast.CompositeLit) bool {
	name := ""
	switch t := x.Type.(type) {
	case *ast.Ident:
		name = t.Name
	case *ast.SelectorExpr:
		name = t.Sel.Name
	}
	return (name == "Reply" || name == "SMTPError") && slices.ContainsFunc(x.Elts, func(e ast.Expr) bool {
		kv, ok := e.(*ast.KeyValueExpr)
		key, named := kv.Key.(*ast.Ident)
		return ok && named && key.Name == "Code"
	})
}

// call adds what a call of a maker makes. It reports false if that is no text that stands in the code. What a function
// of said puts together stands there.
func (r *replyReader) call(s source, x *ast.CallExpr, m maker, isSaid bool) bool {
	part := func(p string) (string, bool) {
		if n, argument := strings.CutPrefix(p, "#"); argument {
			i, _ := strconv.Atoi(n)
			if l, ok := x.Args[i].(*ast.BasicLit); ok && l.Kind == token.INT {
				return l.Value, true
			}
			return "", false
		}
		return p, true
	}
	codes, ok1 := part(m.code)
	subject, ok2 := part(m.subject)
	detail, ok3 := part(m.detail)
	i, _ := strconv.Atoi(m.text[1:])
	text := r.text(s, x.Args[i])
	if !ok1 || !ok2 || !ok3 || isSaid && strings.Contains(text, differs) || strings.Trim(text, differs+" ,.") == "" {
		return false
	}
	for code := range strings.FieldsSeq(codes) {
		made := madeReply{code: code, text: strings.ReplaceAll(text, "\n", " / ")}
		if code[0] != '3' {
			made.enhanced = code[:1] + "." + subject + "." + detail
		}
		r.all = append(r.all, made)
	}
	return true
}

// text returns a text as it stands in the code, with differs for what does not.
func (r *replyReader) text(s source, e ast.Expr) string {
	switch x := e.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(x.Value)
		return text
	case *ast.BinaryExpr:
		return r.text(s, x.X) + r.text(s, x.Y)
	case *ast.Ident:
		if text, ok := r.constants[s.ast.Name.Name+"."+x.Name]; ok {
			return text
		}
	case *ast.SelectorExpr:
		if pkg, ok := x.X.(*ast.Ident); ok {
			if text, ok := r.constants[pkg.Name+"."+x.Sel.Name]; ok {
				return text
			}
		}
	}
	return differs
}

// rowsFrom and rowsTo stand around the rows of replies whose codes begin with a digit.
const (
	rowsFrom = "<!-- make docs writes the first column of the replies "
	rowsTo   = "<!-- make docs wrote the first column. -->"
)

// composePage returns the page with a row for each reply, and with the words of the rows that stand there.
func composePage(p repliesPage, page string, made []madeReply) (composed string, findings []string) {
	words := wordsOf(page)
	var b strings.Builder
	skip, due := false, 0
	for _, r := range made {
		if strings.Contains(p.classes, r.code[:1]) {
			due++
		}
	}
	placed := 0
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, rowsTo) {
			skip = false
		}
		if !skip {
			b.WriteString(line)
		}
		classes, from := strings.CutPrefix(line, rowsFrom)
		if !from {
			continue
		}
		classes, _, _ = strings.Cut(classes, " ")
		skip = true
		b.WriteString("\n" + p.heads + "\n" + strings.Repeat("|---", p.columns+1) + "|\n")
		for _, r := range made {
			if !strings.Contains(classes, r.code[:1]) {
				continue
			}
			placed++
			rest, ok := words[r.String()]
			if !ok {
				rest = strings.TrimSpace(strings.Repeat("? | ", p.columns))
			}
			if strings.Contains(rest, "? |") || strings.Count(rest, " |") != p.columns {
				findings = append(findings, fmt.Sprintf("%s: %q: who does what?", p.file, r))
			}
			b.WriteString("| `" + r.String() + "` | " + rest + "\n")
		}
		b.WriteString("\n")
	}
	if placed != due {
		findings = append(findings, fmt.Sprintf("%d of %d replies have a place in %s", placed, due, p.file))
	}
	return b.String(), findings
}

// TestPostmaster_Bite shows the reader replies of each form, and the page a reply that it lacks.
func TestPostmaster_Bite(t *testing.T) {
	sources := []source{parse(t, "ingress/wire/a.go", `package wire
const gone = "It is gone"
var a = mail.NewReply(550, 1, 1, gone)
func f(text string) error { return mail.Refuse(450, 7, 1, "Come back, "+again(text), "why", nil) }
func g(c *conn, code int) error { return mail.Refuse(code, 7, 1, "Never", "why", nil) }
func h(r *mail.Reply) { r.Code = 421 }
func i() any { return &smtp.SMTPError{Code: 535, Message: "No"} }
func j(b []byte) []byte { return append(b, "250 "...) }`)}
	r := replyReader{constants: stringConstants(sources), literals: map[string]string{}}
	for _, decl := range sources[0].ast.Decls {
		name := ""
		if f, ok := decl.(*ast.FuncDecl); ok {
			name = f.Name.Name
		}
		r.read(sources[0], name, decl)
	}
	var got []string
	for _, made := range r.all {
		got = append(got, made.String())
	}
	if want := []string{"550 5.1.1 It is gone", "450 4.7.1 Come back, …"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if len(r.findings) != 4 {
		t.Errorf("got %d findings, want 4: %q", len(r.findings), r.findings)
	}
	page := rowsFrom + "45 -->\n| `550 5.1.1 It is gone` | a | b | c |\n| `550 5.1.1 Old` | a | b | c |\n" + rowsTo +
		"\n"
	composed, findings := composePage(repliesPages[0], page, r.all)
	if len(findings) != 1 || strings.Contains(composed, "Old") || !strings.Contains(composed, "gone` | a | b | c |") ||
		!strings.Contains(composed, "| `450 4.7.1 Come back, …` | ? | ? | ? |") {
		t.Errorf("got %q and\n%s", findings, composed)
	}
}
