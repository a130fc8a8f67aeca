package peer

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A message that streams is one at its owner, and one that is held is not, in however many frames it comes.
func TestTransaction_Stream(t *testing.T) {
	large := strings.Repeat("0123456789\r\n", 20000)
	tests := []struct {
		name    string
		send    func(tx mail.Transaction) mail.Outcome
		streams int
	}{
		{"streamed", func(tx mail.Transaction) mail.Outcome {
			if err := errors.Join(tx.Stream(t.Context()), tx.Data(t.Context(), mail.Stuffed),
				tx.Write(octets(large))); err != nil {
				t.Fatal(err)
			}
			return tx.Commit(t.Context(), octets("end\r\n"))[0]
		}, 1},
		{"held, in several frames", func(tx mail.Transaction) mail.Outcome {
			if err := tx.Data(t.Context(), mail.Stuffed); err != nil {
				t.Fatal(err)
			}
			ctx := mail.Until(t.Context(), time.Now().Add(time.Minute))
			return tx.Commit(ctx, octets(large))[0]
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := &destination{}
			w := newWorld(t, d, beat, nil)
			tx := w.begin(delivery())
			if got := tt.send(tx); got.Reply.Code != 250 {
				t.Fatalf("%+v", got)
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.streams != tt.streams {
				t.Errorf("asked for a place %d times, want %d", d.streams, tt.streams)
			}
		})
	}
	t.Run("no place is a refusal of the message", func(t *testing.T) {
		d := &destination{stream: func(context.Context) error {
			return mail.Refuse(451, 4, 5, "Destination is busy", "no place", nil)
		}}
		w := newWorld(t, d, beat, nil)
		tx := w.begin(delivery())
		if err := errors.Join(tx.Stream(t.Context()), tx.Data(t.Context(), mail.Stuffed),
			tx.Write(octets(large))); err != nil && mail.ReplyFor(err).Code != 451 {
			t.Fatal(err)
		}
		if got := tx.Commit(t.Context(), octets("end\r\n"))[0]; got.Reply.Code != 451 ||
			got.Reply.Enhanced != (mail.EnhancedCode{Subject: 4, Detail: 5}) {
			t.Errorf("%+v", got)
		}
	})
}
