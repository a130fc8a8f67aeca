package v4

import (
	"strings"
	"testing"
	"time"
)

// TestAPI_Addresses: a destination is pending until it is verified; the same one again is the same entry, and its owner
// is asked again.
func TestAPI_Addresses(t *testing.T) {
	w := newWorld(t, t.TempDir())
	var a, b shownAddress
	w.ok("POST", addressPath, `{"email":"A@x.example"}`, &a)
	if !isID.MatchString(a.ID) || a.Tag != a.ID || a.Email != "A@x.example" || a.Verified != nil {
		t.Errorf("got %+v", a)
	}
	if _, text := w.do("GET", addressPath+"/"+a.ID, ""); !strings.Contains(text, `"verified":null`) {
		t.Errorf("got %s", text)
	}
	w.ok("POST", addressPath, `{"email":"A@X.example"}`, &b)
	if b.ID != a.ID || len(w.asked) != 2 {
		t.Errorf("got %+v, asked %q", b, w.asked)
	}
	r := w.ok("POST", addressPath, `{"email":"smtp://192.0.2.1:25"}`, &b)
	if len(r.Messages) != 1 || r.Messages[0].Message != "no letter" {
		t.Errorf("got %+v", r)
	}
	w.ok("PATCH", addressPath+"/"+b.ID, `{"status":"verified"}`, &b)
	if b.Verified == nil {
		t.Errorf("got %+v", b)
	}
	if _, err := time.Parse(time.RFC3339, *b.Verified); err != nil {
		t.Error(err)
	}
	for query, want := range map[string]int{"": 2, "?verified=true": 1, "?verified=false": 1,
		"?direction=desc&order=created": 2} {
		var list []shownAddress
		if r := w.ok("GET", addressPath+query, "", &list); len(list) != want || r.Info.TotalCount != want {
			t.Errorf("%s: got %+v", query, list)
		}
	}
	w.ok("PATCH", addressPath+"/"+b.ID, `{"status":"unverified"}`, &b)
	if b.Verified != nil {
		t.Errorf("got %+v", b)
	}
	w.fails("PATCH", addressPath+"/"+b.ID, `{"status":"x"}`, 400, 2030)
	w.fails("POST", addressPath, `{}`, 400, 2030)
	w.fails("POST", addressPath, `{"email":"no address"}`, 400, 2030)
	w.fails("GET", addressPath+"?verified=x", "", 400, 2030)
	w.ok("DELETE", addressPath+"/"+a.ID, "", &a)
	if a.Email != "A@x.example" {
		t.Errorf("got %+v", a)
	}
	w.fails("GET", addressPath+"/"+a.ID, "", 404, 2021)
}

// TestAPI_Pending: a rule that names a destination which is not verified is accepted and returned as it was given, and
// takes no mail before; one whose destination is removed is disabled.
func TestAPI_Pending(t *testing.T) {
	w := newWorld(t, t.TempDir())
	var a shownAddress
	w.ok("POST", addressPath, `{"email":"x@x.example"}`, &a)
	var r shownRule
	answer := w.ok("POST", rulesPath, literalRule("a@example.com", `{"type":"forward","value":["x@x.example"]}`), &r)
	if !r.Enabled || len(answer.Messages) != 1 || !strings.Contains(answer.Messages[0].Message, "x@x.example") {
		t.Errorf("got %+v %+v", r, answer.Messages)
	}
	const line = "\na@example.com  x@x.example\n"
	if strings.Contains(w.text, line) {
		t.Error("it takes mail")
	}
	w.ok("PATCH", addressPath+"/"+a.ID, `{"status":"verified"}`, nil)
	if !strings.Contains(w.text, line) {
		t.Errorf("it takes no mail: %s", w.text)
	}
	w.ok("DELETE", addressPath+"/"+a.ID, "", nil)
	w.ok("GET", rulesPath+"/"+r.ID, "", &r)
	if r.Enabled || strings.Contains(w.text, line) {
		t.Errorf("got %+v", r)
	}
}
