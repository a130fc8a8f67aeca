package score

import (
	"net/netip"
	"testing"
)

func TestGeneric(t *testing.T) {
	const v6 = "2001:db8:1:2::9"
	for _, c := range []struct{ name, addr, want string }{
		{"203-0-113-9.dsl.example.net", "203.0.113.9", "is made of its address"},
		{"ip203.0.113.9.example.net", "203.0.113.9", "is made of its address"},
		{"9.113.0.203.example.net", "203.0.113.9", "is made of its address"},
		{"host9-113-0-203.example.net", "203.0.113.9", "is made of its address"},
		{"c-203-000-113-009.example.net", "203.0.113.9", "is made of its address"},
		{"203000113009.example.net", "203.0.113.9", "is made of its address"},
		{"pcb007109.dip0.example.net", "203.0.113.9", "is made of its address"},
		{"h097100cb.example.net", "203.0.113.9", "is made of its address"},
		{"h3405803785.example.net", "203.0.113.9", "is made of its address"},
		{"ec2-203-0-113-9.compute.example.com", "203.0.113.9", "is made of its address"},
		{"dhcp-42.example.net", "203.0.113.9", "is one of dynamic addresses"},
		{"dhcp-42.cust.example.net", "203.0.113.9", "is one of dynamic addresses"},
		{"p5.dynamic.example.net", "203.0.113.9", "is one of dynamic addresses"},

		{"mail.example.net", "203.0.113.9", ""},
		{"example.net", "203.0.113.9", ""},
		{"net", "203.0.113.9", ""},
		{"", "203.0.113.9", ""},
		{"mail-203-0-113-9.example.net", "203.0.113.9", ""},
		{"203-0-113-9.smtp.example.net", "203.0.113.9", ""},
		{"203-0-113-9.static.example.net", "203.0.113.9", ""},
		{"mx1.dsl.example.net", "203.0.113.9", ""},
		{"mail-yw1-f170.google.com", "203.0.113.9", ""},
		{"a8-29.smtp-out.amazonses.com", "54.240.8.29", ""},
		{"mail-am6eur05on2071.outbound.protection.outlook.com", "40.107.22.71", ""},
		{"wforward5-smtp.messagingengine.com", "64.147.123.21", ""},
		{"o1.ptr1234.sendgrid.example", "203.0.113.9", ""},
		{"dynamic.example.net", "203.0.113.9", ""},
		{"www.dynamic.example.net", "203.0.113.9", ""},
		{"pool.ntp.example.net", "203.0.113.9", ""},
		{"1203-0-113-9.a.example.net", "203.0.113.9", ""},
		{"203-0-113-99.a.example.net", "203.0.113.9", ""},
		{"203-0-113.a.example.net", "203.0.113.9", ""},
		{"host.203-0-113-9.net", "203.0.113.9", ""}, // the provider's own name

		{"2001-db8-1-2--9.example.net", v6, "is made of its address"},
		{"2001-db8-1-2-0-0-0-9.cable.example.net", v6, "is made of its address"},
		{"20010db8000100020000000000000009.example.net", v6, "is made of its address"},
		{
			"9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.ip6.example.net", v6,
			"is made of its address",
		},
		{"h0000000000000009.example.net", v6, "is made of its address"},
		{"web9.example.net", v6, ""},
		{"2001-db8-1-2--8.example.net", v6, ""},
	} {
		if got := generic(c.name, netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("generic(%q, %s) = %q, want %q", c.name, c.addr, got, c.want)
		}
	}
}
