package submission

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// errForeign is what alice's owns returns for addresses of others.
var errForeign = errors.New("foreign")

// ownedByAlice takes her two addresses.
func ownedByAlice(p mail.Path) error {
	switch key(p) {
	case "alice@example.com", "sales@example.com", "ann@xn--bcher-kva.example":
		return nil
	}
	return errForeign
}

// hers is alice's From field.
const hers = "From: <alice@example.com>\r\n"

// checkFor returns what becomes of a header section.
func checkFor(header string) error {
	h, err := ReadHeader([]byte(header))
	if err != nil {
		return err
	}
	return h.Check(ownedByAlice)
}

// TestCheck_Taken: what honest programs write passes.
func TestCheck_Taken(t *testing.T) {
	for name, header := range map[string]string{
		"an address alone":                      "From: alice@example.com\r\n",
		"an address in brackets":                "From: <alice@example.com>\r\n",
		"a name":                                "From: Alice Liddell <alice@example.com>\r\n",
		"a name with a dot":                     "From: Alice P. Liddell <alice@example.com>\r\n",
		"a name in quotes":                      "From: \"Liddell, Alice (Sales)\" <alice@example.com>\r\n",
		"a quoted quote":                        "From: \"Alice \\\"A\\\" L\" <alice@example.com>\r\n",
		"an empty name":                         "From: \"\" <alice@example.com>\r\n",
		"another address of hers":               "From: Sales <sales@example.com>\r\n",
		"other case":                            "FROM: <Alice@EXAMPLE.com>\r\n",
		"the form of old programs":              "From: alice@example.com (Alice Liddell)\r\n",
		"a folded field":                        "From: Alice\r\n <alice@example.com>\r\n",
		"folded with a tab":                     "From: Alice\r\n\tLiddell\r\n\t<alice@example.com>\r\n",
		"her address as the name":               "From: \"alice@example.com\" <alice@example.com>\r\n",
		"her other address as the name":         "From: \"'sales@example.com'\" <alice@example.com>\r\n",
		"an encoded name":                       "From: =?UTF-8?Q?Al=C3=AFce_L?= <alice@example.com>\r\n",
		"a name encoded in parts":               "From: =?utf-8?B?44GC?=\r\n =?utf-8?B?44GE?= <alice@example.com>\r\n",
		"Japanese":                              "From: =?ISO-2022-JP?B?GyRCO3NFRBsoQg==?= <alice@example.com>\r\n",
		"GBK with an @ octet":                   "From: =?GBK?Q?=81=40?= <alice@example.com>\r\n",
		"Shift_JIS with an @ octet":             "From: =?Shift_JIS?Q?=83=40=B1?= <alice@example.com>\r\n",
		"EUC-KR with a triangle":                "From: =?EUC-KR?Q?=A1=E3=A1=E4?= <alice@example.com>\r\n",
		"EUC-JP":                                "From: =?EUC-JP?Q?=A3=C1=B0=A1?= <alice@example.com>\r\n",
		"UTF-8 as it is":                        "From: あ <alice@example.com>\r\n",
		"an emoji of several":                   "From: \U0001F469\u200d\U0001F4BB <alice@example.com>\r\n",
		"a domain of U-labels":                  "From: <ann@bücher.example>\r\n",
		"a domain of A-labels":                  "From: <ann@xn--bcher-kva.example>\r\n",
		"a Sender of hers":                      "From: <sales@example.com>\r\nSender: <alice@example.com>\r\n",
		"fields before and behind":              "Subject: From: <boss@bank.example>\r\n" + hers + "To: <b@x.a>\r\n",
		"a reply path of her choice":            "From: <alice@example.com>\r\nReply-To: <other@elsewhere.example>\r\n",
		"a folded subject that looks like From": "Subject: x\r\n From: <boss@bank.example>\r\n" + hers,
		"resent by her":                         "From: <alice@example.com>\r\nResent-From: <sales@example.com>\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			if err := checkFor(header + "\r\nFrom: <boss@bank.example>\r\n"); err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

// tricks are header sections by which a user would have a message be of another one.
var tricks = map[string]string{
	"no From":                          "Subject: x\r\n",
	"nothing":                          "",
	"an empty From":                    "From:\r\n",
	"another's address":                "From: <boss@bank.example>\r\n",
	"another's, with her name":         "From: \"alice@example.com\" <boss@bank.example>\r\n",
	"another user's":                   "From: <bob@example.com>\r\n",
	"her local part elsewhere":         "From: <alice@bank.example>\r\n",
	"a domain below hers":              "From: <alice@mail.example.com>\r\n",
	"a domain that begins as hers":     "From: <alice@example.com.bank.example>\r\n",
	"a look-alike domain":              "From: <alice@exаmple.com>\r\n",
	"two From fields":                  "From: <alice@example.com>\r\nFrom: <boss@bank.example>\r\n",
	"two of hers":                      "From: <alice@example.com>\r\nFrom: <alice@example.com>\r\n",
	"two From fields in another case":  "From: <alice@example.com>\r\nfRoM: <boss@bank.example>\r\n",
	"a blank before the colon":         "From : <boss@bank.example>\r\nFrom: <alice@example.com>\r\n",
	"a tab before the colon":           "From: <alice@example.com>\r\nFrom\t: <boss@bank.example>\r\n",
	"a control in the name":            "From: <alice@example.com>\r\nFr\x00om: <boss@bank.example>\r\n",
	"an octet above 127 in the name":   "From: <alice@example.com>\r\nFrom\xa0: <boss@bank.example>\r\n",
	"a line that is no field":          "From: <alice@example.com>\r\nboss@bank.example\r\n",
	"a first line that folds":          " From: <boss@bank.example>\r\nFrom: <alice@example.com>\r\n",
	"a mailbox line":                   "From boss@bank.example Mon Nov 30\r\nFrom: <alice@example.com>\r\n",
	"a byte order mark":                "\ufeffFrom: <boss@bank.example>\r\nFrom: <alice@example.com>\r\n",
	"two addresses":                    "From: <alice@example.com>, <boss@bank.example>\r\n",
	"two addresses, hers last":         "From: boss@bank.example, alice@example.com\r\n",
	"two of her addresses":             "From: alice@example.com, sales@example.com\r\n",
	"a semicolon between them":         "From: alice@example.com; boss@bank.example\r\n",
	"a blank between them":             "From: alice@example.com boss@bank.example\r\n",
	"a group":                          "From: Friends: alice@example.com;\r\n",
	"an empty group":                   "From: undisclosed:;\r\n",
	"a group and an address":           "From: bank: boss@bank.example;, alice@example.com\r\n",
	"two pairs of brackets":            "From: <boss@bank.example> <alice@example.com>\r\n",
	"brackets in brackets":             "From: <boss@bank.example<alice@example.com>>\r\n",
	"text behind the bracket":          "From: <alice@example.com> boss@bank.example\r\n",
	"an open bracket":                  "From: Alice <alice@example.com\r\n",
	"an address before the bracket":    "From: boss@bank.example <alice@example.com>\r\n",
	"an address in quotes":             "From: \"boss@bank.example\" <alice@example.com>\r\n",
	"an address and a name in quotes":  "From: \"Boss <boss@bank.example>\" <alice@example.com>\r\n",
	"a quoted pair for the @":          "From: \"boss\\@bank.example\" <alice@example.com>\r\n",
	"an open quote":                    "From: \"boss <alice@example.com>\r\n",
	"an address in a comment":          "From: alice@example.com (boss@bank.example)\r\n",
	"a comment before":                 "From: (boss@bank.example) alice@example.com\r\n",
	"a comment inside":                 "From: alice(boss@bank.example)@example.com\r\n",
	"a comment that is glued":          "From: alice@example.com(Alice)\r\n",
	"a comment in a comment":           "From: alice@example.com (a (b) boss@bank.example)\r\n",
	"a backslash in a comment":         "From: alice@example.com (a\\) boss@bank.example)\r\n",
	"an encoded address":               "From: =?utf-8?Q?boss=40bank.example?= <alice@example.com>\r\n",
	"an address encoded as base64":     "From: =?utf-8?B?Ym9zc0BiYW5rLmV4YW1wbGU=?= <alice@example.com>\r\n",
	"one encoded in quotes":            "From: \"=?utf-8?B?Ym9zc0BiYW5rLmV4YW1wbGU=?=\" <alice@example.com>\r\n",
	"one encoded in parts":             "From: =?utf-8?Q?boss?= =?utf-8?Q?=40bank.example?= <alice@example.com>\r\n",
	"one encoded and folded":           "From: =?utf-8?Q?boss=40?=\r\n =?utf-8?Q?bank.a?= <alice@example.com>\r\n",
	"an encoded bracket":               "From: =?utf-8?Q?boss_=3Cb?= <alice@example.com>\r\n",
	"an encoded line end":              "From: =?utf-8?Q?x=0D=0AFrom:_boss?= <alice@example.com>\r\n",
	"an encoded NUL":                   "From: =?utf-8?Q?x=00?= <alice@example.com>\r\n",
	"UTF-7":                            "From: =?utf-7?Q?boss+AEA-bank.example?= <alice@example.com>\r\n",
	"a charset that there is not":      "From: =?x-none?Q?boss=40bank.example?= <alice@example.com>\r\n",
	"an encoding that there is not":    "From: =?utf-8?X?Ym9zcw?= <alice@example.com>\r\n",
	"an encoded word without its end":  "From: =?utf-8?Q?boss=40bank.example <alice@example.com>\r\n",
	"a fullwidth @":                    "From: boss\uff20bank.example <alice@example.com>\r\n",
	"a small @":                        "From: boss\ufe6bbank.example <alice@example.com>\r\n",
	"a fullwidth @ in Japanese":        "From: =?iso-2022-jp?B?GyRCIXcbKEI=?= <alice@example.com>\r\n",
	"a right-to-left override":         "From: moc\u202eknab <alice@example.com>\r\n",
	"an invisible character":           "From: bo\u200bss <alice@example.com>\r\n",
	"octets that are no UTF-8":         "From: bo\xffss <alice@example.com>\r\n",
	"a control in the field":           "From: boss\x08 <alice@example.com>\r\n",
	"an encoded local part":            "From: <=?utf-8?Q?boss?=@example.com>\r\n",
	"a source route":                   "From: <@bank.example:alice@example.com>\r\n",
	"a quoted local part":              "From: <\"alice\"@example.com>\r\n",
	"a blank in the address":           "From: <alice @example.com>\r\n",
	"fullwidth @ in Shift_JIS":         "From: =?shift_jis?Q?boss=81=97bank.example?= <alice@example.com>\r\n",
	"fullwidth @ in EUC-JP":            "From: =?euc-jp?Q?boss=A1=F7bank.example?= <alice@example.com>\r\n",
	"fullwidth @ in GBK":               "From: =?gbk?Q?boss=A3=C0bank.example?= <alice@example.com>\r\n",
	"fullwidth @ in EUC-KR":            "From: =?euc-kr?Q?boss=A3=C0bank.example?= <alice@example.com>\r\n",
	"fullwidth @ in Big5":              "From: =?big5?Q?boss=A2=49bank.example?= <alice@example.com>\r\n",
	"an @ behind half a katakana":      "From: =?shift_jis?Q?boss=B1=40bank.example?= <alice@example.com>\r\n",
	"an @ behind half a pair":          "From: =?euc-jp?Q?boss=B1=40bank.example?= <alice@example.com>\r\n",
	"an @ behind what begins no pair":  "From: =?gbk?Q?boss=80=40bank.example?= <alice@example.com>\r\n",
	"two @":                            "From: <boss@bank.example@example.com>\r\n",
	"a percent":                        "From: <boss%bank.example@example.com>\r\n",
	"an address literal":               "From: <alice@[192.0.2.1]>\r\n",
	"no domain":                        "From: alice\r\n",
	"no address":                       "From: <>\r\n",
	"a line of blanks":                 "From: \r\n \r\n <alice@example.com>\r\n",
	"a line of blanks behind":          "From: <alice@example.com>\r\n \r\nX: y\r\n",
	"another's Sender":                 "From: <alice@example.com>\r\nSender: <boss@bank.example>\r\n",
	"a Sender that is a list":          hers + "Sender: <alice@example.com>, <b@bank.example>\r\n",
	"resent by another":                "From: <alice@example.com>\r\nResent-From: <boss@bank.example>\r\n",
	"resent, sent by another":          "From: <alice@example.com>\r\nResent-Sender: boss@bank.example\r\n",
	"a From behind what ends nothing":  "X: y\r\n\t\r\nFrom: <boss@bank.example>\r\n",
	"a From of the body":               "Subject: x\r\n\r\nFrom: <alice@example.com>\r\n",
	"her address behind the first one": "From: boss@bank.example\r\n <alice@example.com>\r\n",
}

// TestCheck_Tricks: none of them passes, and each is refused for good.
func TestCheck_Tricks(t *testing.T) {
	for name, header := range tricks {
		t.Run(name, func(t *testing.T) {
			err := checkFor(header + "\r\nx\r\n")
			if err == nil {
				t.Fatal("passes")
			}
			if refused, ok := errors.AsType[*mail.Refusal](err); ok && refused.Reply.Class() != 5 ||
				!ok && !errors.Is(err, errForeign) {
				t.Errorf("%v", err)
			}
		})
	}
	if len(tricks) < 30 {
		t.Error(len(tricks))
	}
}

// TestMissing: a message has a date and an id when it leaves, and those that it had are kept.
func TestMissing(t *testing.T) {
	for _, c := range []struct{ name, header, want string }{
		{"both", "", "Date: now\r\nMessage-ID: <id@example.com>\r\n"},
		{"none", "DATE: x\r\nMESSAGE-ID: <a@b>\r\n", ""},
		{"its date", "Message-Id: <a@b>\r\n", "Date: now\r\n"},
		{"its id", "Date: x\r\n", "Message-ID: <id@example.com>\r\n"},
		{"those of a message in it", "X: y\r\n Date: x\r\n", "Date: now\r\nMessage-ID: <id@example.com>\r\n"},
	} {
		h, err := ReadHeader([]byte(c.header + "From: <alice@example.com>\r\n\r\nDate: x\r\n"))
		if err == nil {
			err = h.Check(ownedByAlice)
		}
		if got := string(h.Missing("now", "id")); err != nil || got != c.want {
			t.Errorf("lacks %s: %q, %v", c.name, got, err)
		}
	}
}

// FuzzHeader reads arbitrary header sections. What passes has one line that begins with "From:" in any case, in which
// every "@" but those of the addresses of the user belongs to no reading: it is read once more by the simplest of
// readers, which takes what stands between the last brackets, or the first word with an "@".
func FuzzHeader(f *testing.F) {
	for _, header := range tricks {
		f.Add(header)
	}
	f.Add("From: Alice <alice@example.com>\r\nSender: sales@example.com\r\n")
	f.Add("From: =?utf-8?Q?A?= <alice@example.com>\r\n")
	f.Fuzz(func(t *testing.T, header string) {
		if checkFor(header) != nil {
			return
		}
		section, _, _ := strings.Cut(header, "\r\n\r\n")
		from := ""
		for line := range strings.SplitSeq("\r\n"+section, "\r\n") {
			folded := strings.ToLower(strings.Map(func(r rune) rune {
				if r <= ' ' || r > '~' {
					return -1
				}
				return r
			}, line))
			if strings.HasPrefix(folded, "from:") && !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") {
				if from != "" {
					t.Fatalf("two From fields: %q", header)
				}
				from = line
			}
		}
		if from == "" && !strings.HasPrefix(strings.ToLower(section), "from:") {
			t.Fatalf("no From field: %q", header)
		}
		unfolded := strings.ReplaceAll(strings.ReplaceAll(section, "\r\n ", " "), "\r\n\t", "\t")
		for line := range strings.SplitSeq(unfolded, "\r\n") {
			if len(line) < 5 || !strings.EqualFold(line[:5], "from:") {
				continue
			}
			if naive := naiveAddress(line[5:]); !strings.EqualFold(naive, "alice@example.com") &&
				!strings.EqualFold(naive, "sales@example.com") && !strings.HasPrefix(naive, "ann@") {
				t.Fatalf("a simple reader takes %q from %q", naive, line)
			}
		}
	})
}

// naiveAddress is how the simplest programs read a From field.
func naiveAddress(s string) string {
	if open := strings.LastIndexByte(s, '<'); open >= 0 {
		inner, _, _ := strings.Cut(s[open+1:], ">")
		return inner
	}
	for word := range strings.FieldsSeq(s) {
		if strings.Contains(word, "@") {
			return word
		}
	}
	return ""
}
