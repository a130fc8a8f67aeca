package dmarc

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// Policy records.
func TestParseRecord(t *testing.T) {
	const rua = "; rua=mailto:r@example.com"
	plain := record{applies: true, percent: 100, psd: 'u'}
	with := func(change func(*record)) record { r := plain; change(&r); return r }
	none := with(func(r *record) { r.applies = false })
	reject := with(func(r *record) { r.policy = Reject })
	for _, c := range []struct {
		name, text string
		want       record
	}{
		{"the least", "v=DMARC1; p=reject", reject},
		{"a last semicolon", "v=DMARC1;p=reject;", reject},
		{"blanks anywhere", "v = DMARC1 ;\t p = reject ; ", reject},
		{"values in any case", "v=DMARC1; p=ReJect", reject},
		{"names in any case", "V=DMARC1; P=reject", reject},
		{"tags in any order", "v=DMARC1; rua=mailto:a@b.c; p=reject", reject},
		{"all of them",
			"v=DMARC1; p=quarantine; sp=reject; np=none; adkim=s; aspf=s; t=y; psd=n; fo=1:d; ruf=mailto:a@b.c" + rua,
			record{policy: Quarantine, subdomain: optional{Reject, true}, nonExistent: optional{ok: true},
				applies: true, testing: true, percent: 100,
				strictDKIM: true, strictSPF: true, psd: 'n'}},
		{"tags of RFC 7489", "v=DMARC1; p=reject; pct=20; rf=afrf; ri=86400", with(func(r *record) {
			r.policy, r.percent = Reject, 20
		})},
		{"pct of nothing", "v=DMARC1; p=reject; pct=0", with(func(r *record) { r.policy, r.percent = Reject, 0 })},
		{"pct over all", "v=DMARC1; p=reject; pct=101", reject},
		{"pct that is no number", "v=DMARC1; p=reject; pct=-1", reject},
		{"t=y beside pct", "v=DMARC1; p=reject; pct=0; t=y", with(func(r *record) {
			r.policy, r.testing, r.percent = Reject, true, 0
		})},
		{"a broken t", "v=DMARC1; p=reject; pct=0; t=maybe", with(func(r *record) {
			r.policy, r.percent = Reject, 0
		})},
		{"broken alignment is relaxed", "v=DMARC1; p=reject; adkim=x; aspf=", reject},
		{"broken psd is unknown", "v=DMARC1; p=reject; psd=yes", reject},
		{"psd in any case", "v=DMARC1; p=reject; psd=Y", with(func(r *record) { r.policy, r.psd = Reject, 'y' })},
		{"unknown tags", "v=DMARC1; p=reject; x=y; =; ;;p2=none", reject},
		{"a tag without a value sign", "v=DMARC1; p=reject; sp", reject},
		{"of two the first counts", "v=DMARC1; p=reject; p=none", reject},
		{"a value with an equals sign", "v=DMARC1; rua=mailto:a@b.c?x=y; p=reject", reject},

		{"no policy", "v=DMARC1", none},
		{"no policy with a report address", "v=DMARC1" + rua, plain},
		{"a broken policy", "v=DMARC1; p=rejected", none},
		{"a broken policy with a report address", "v=DMARC1; p=rejected" + rua, plain},
		{"a broken sp takes p along", "v=DMARC1; p=reject; sp=all; np=reject" + rua, plain},
		{"a broken np takes p along", "v=DMARC1; p=reject; sp=reject; np=" + rua, plain},
		{"and all without a report address", "v=DMARC1; p=reject; sp=all", none},
		{"a report address of another kind", "v=DMARC1; rua=https://r.example/x", plain},
		{"a report address with a size", "v=DMARC1; rua=mailto:a@b.c!10m", plain},
		{"a second report address", "v=DMARC1; rua=a@b.c, mailto:a@b.c", plain},
		{"a report address without a scheme", "v=DMARC1; rua=r@example.com", none},
		{"a report address without a domain", "v=DMARC1; rua=mailto:r", none},
		{"a report address that is empty", "v=DMARC1; rua=", none},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parseRecord(c.text)
			if ok {
				got.published = mail.DMARCPolicy{} // see TestParseRecord_Published
			}
			if !ok || *got != c.want {
				t.Errorf("got %v, %+v, want %+v", ok, got, c.want)
			}
		})
	}
}

// TestParseRecord_Published: a report repeats what counts of a record, with its defaults.
func TestParseRecord_Published(t *testing.T) {
	for text, want := range map[string]mail.DMARCPolicy{
		"v=DMARC1; p=reject; rua=mailto:a@b.c":      {P: "reject", ADKIM: "r", ASPF: "r", RUA: "mailto:a@b.c"},
		"v=DMARC1; p=reject; rua=a@b.c; fo=x":       {P: "reject", ADKIM: "r", ASPF: "r"},
		"v=DMARC1; p=x; sp=y; rua=mailto:a@b.c!10m": {P: "none", ADKIM: "r", ASPF: "r", RUA: "mailto:a@b.c!10m"},
		"v=DMARC1; p=none; sp=reject; np=quarantine; adkim=s; aspf=s; t=y; fo=1:D; rua=mailto:a@b.c,mailto:d@e.f": {
			P: "none", SP: "reject", NP: "quarantine", ADKIM: "s", ASPF: "s", Testing: true, FO: "1:d",
			RUA: "mailto:a@b.c,mailto:d@e.f",
		},
	} {
		if r, ok := parseRecord(text); !ok || r.published != want {
			t.Errorf("%s: got %+v", text, r)
		}
	}
}

// Texts that are no policy record.
func TestParseRecord_Refused(t *testing.T) {
	for _, text := range []string{
		"", "v=DMARC1 p=reject", "v=DMARC2; p=reject", "v=dmarc1; p=reject", "p=reject; v=DMARC1",
		" v=DMARC1; p=reject",
		"v=DMARC; p=reject", "v=spf1 -all", "vv=DMARC1; p=reject", "v=DMARC1, p=reject", "DMARC1; p=reject",
		"\"v=DMARC1; p=reject\"",
		"v=DMARC1; p=reject; x=" + strings.Repeat("y", maxRecordLength),
	} {
		if r, ok := parseRecord(text); ok {
			t.Errorf("%.40q is %+v", text, r)
		}
	}
}

func FuzzRecord(f *testing.F) {
	for _, seed := range []string{"v=DMARC1; p=reject; sp=none; np=x; pct=5; t=y; psd=n; adkim=s; aspf=r; " +
		"rua=mailto:a@b.c!5m,x",
		"v=DMARC1", "V = DMARC1 ;;;=;p", "v=DMARC1; rua=%", "v=spf1 -all"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, ok := parseRecord(text)
		if !ok {
			return
		}
		if r.percent < 0 || r.percent > 100 || !strings.ContainsRune("ynu", rune(r.psd)) {
			t.Fatalf("%+v", r)
		}
		if !r.applies && (r.policy != NoAction || r.subdomain.ok || r.nonExistent.ok) {
			t.Fatalf("a policy that does not apply: %+v", r)
		}
		// What follows a record that is complete changes none of it, unless it is of a name that was not there.
		if again, ok := parseRecord(text + "; unknown=1;"); len(text) < maxRecordLength/2 && (!ok || *again != *r) {
			t.Fatalf("got %+v, before %+v", again, r)
		}
	})
}
