package verify

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"mime"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/router/mail"
)

// letterText is what a letter says, in both languages of the pages. It names no one: the name of a token is for those
// who run the relay.
const letterText = `Someone wants mail for %[1]s to be forwarded to this address, %[2]s.

If that is right, open this link within 24 hours and confirm it:

%[3]s

If you know nothing of it, do nothing. Nothing is forwarded to you then.

%[4]s

--

%[1]s 宛てのメールを、このアドレス %[2]s に転送する設定が求められています。

お心当たりがあれば、24時間以内に次のリンクを開いて承認してください。

%[3]s

お心当たりがなければ、何もしないでください。転送は行われません。

%[4]s
`

// subject is that of a letter.
const subject = "Confirm this address for forwarding / 転送先アドレスの確認"

// compose returns a letter with a link, as it is sent.
func compose(from, to mail.Path, p account.Principal, link string, now time.Time) []byte {
	of := "the domains of " + from.Domain
	if len(p.Domains) > 0 {
		of = strings.Join(p.Domains[:min(3, len(p.Domains))], ", ")
	}
	text := strings.ReplaceAll(fmt.Sprintf(letterText, of, to, link, from.Domain), "\n", "\r\n")
	var b bytes.Buffer
	field := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	field("From", "Mail relay <"+from.String()+">")
	field("To", "<"+to.String()+">")
	field("Subject", mime.QEncoding.Encode("utf-8", subject))
	field("Date", now.UTC().Format("Mon, 2 Jan 2006 15:04:05 +0000"))
	field("Message-ID", "<"+account.NewID()+"@"+from.Domain+">")
	field("Auto-Submitted", "auto-generated") // RFC 3834: no machine is to answer it
	field("MIME-Version", "1.0")
	field("Content-Type", "text/plain; charset=utf-8")
	field("Content-Transfer-Encoding", "base64")
	b.WriteString("\r\n")
	const line = 76
	encoded := base64.StdEncoding.EncodeToString([]byte(text))
	for len(encoded) > line {
		b.WriteString(encoded[:line] + "\r\n")
		encoded = encoded[line:]
	}
	b.WriteString(encoded + "\r\n")
	return b.Bytes()
}
