package message

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestIDScan: the hash is of the Message-ID and of nothing else, and depends on the key.
func TestIDScan(t *testing.T) {
	hash := func(key, header string) uint64 {
		h := headerScan{id: idScan{key: []byte(key)}}
		for _, piece := range strings.SplitAfter(header, "~") {
			h.feed(mail.Octets{Segments: [][]byte{[]byte(strings.TrimSuffix(piece, "~"))}})
		}
		return h.id.hash
	}
	want := hash("k", "Message-ID: <a@b>\r\n\r\n")
	for _, same := range []string{
		"Subject: x\r\nMESSAGE-ID:<a@b> \r\n\r\n", "Message-ID:\r\n <a@b>\r\n\r\n",
		"Mess~age-ID: <a~@b>\r\n\r\nMessage-ID: <c@d>\r\n", "Message-ID: <a@b>\r\nMessage-ID: <c@d>\r\n\r\n",
	} {
		if got := hash("k", same); got != want || got == 0 {
			t.Errorf("%q: %x, want %x", same, got, want)
		}
	}
	for _, none := range []string{"Subject: x\r\n\r\nMessage-ID: <a@b>\r\n", "Message-ID:\r\nSubject: x\r\n\r\n"} {
		if got := hash("k", none); got != 0 {
			t.Errorf("%q: %x", none, got)
		}
	}
	if other := hash("l", "Message-ID: <a@b>\r\n\r\n"); other == want || hash("", "Message-ID: <a@b>\r\n\r\n") == want {
		t.Error("the key does not matter")
	}
	if n := testing.AllocsPerRun(100, func() {
		s := idScan{key: []byte("k")}
		s.line([]byte("Message-ID: <a@b>\r\n"))
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
