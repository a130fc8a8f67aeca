package peer

import (
	"errors"
	"reflect"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

func TestAttempt_IsReadAsItWasWritten(t *testing.T) {
	want := &mail.Attempt{ID: mail.TraceID{1, 2}, Proved: true, Brief: true, Keys: []mail.LedgerKeys{
		{Message: "m1", Recipients: [][]string{{"a", "b"}, {"c"}}},
		{Message: "m2", Recipients: [][]string{{"d", "e"}, {"f"}}},
	}}
	got, err := parseAttempt(appendAttempt(nil, want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestAttempt_ThatIsNoneIsRefused(t *testing.T) {
	id := mail.TraceID{1}
	nameless := appendAttempt(nil, &mail.Attempt{ID: id, Keys: []mail.LedgerKeys{{Message: "m"}}})
	nameless = append(nameless, fMessage, 0, 0)
	if _, err := parseAttempt(nameless); !errors.Is(err, errFrame) {
		t.Errorf("a name of no octets: %v", err)
	}
	for name, a := range map[string]*mail.Attempt{
		"no name":     {Keys: []mail.LedgerKeys{{Message: "m"}}},
		"no message":  {ID: id},
		"no entry":    {ID: id, Keys: []mail.LedgerKeys{{Message: "m", Recipients: [][]string{{" "}}}}},
		"other sizes": {ID: id, Keys: []mail.LedgerKeys{{Message: "m", Recipients: [][]string{{"a"}}}, {Message: "n"}}},
		"long name":   {ID: id, Keys: []mail.LedgerKeys{{Message: string(make([]byte, maxName+1))}}},
	} {
		if _, err := parseAttempt(appendAttempt(nil, a)); !errors.Is(err, errFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseAttempt(f *testing.F) {
	f.Add([]byte(appendAttempt(nil, &mail.Attempt{
		ID: mail.TraceID{1}, Keys: []mail.LedgerKeys{{Message: "m", Recipients: [][]string{{"a", "b"}}}},
	})))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAttempt(b)
		if err != nil {
			return
		}
		again, err := parseAttempt(appendAttempt(nil, a))
		if err != nil || !reflect.DeepEqual(again, a) {
			t.Fatalf("%+v is read as %+v, %v", a, again, err)
		}
	})
}
