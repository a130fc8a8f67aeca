package wire

import (
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace/router/mail"
)

// An override holds the attributes of one XCLIENT command.
type override struct {
	addr, dest           netip.Addr // zero if absent or unknown
	noAddr               bool       // ADDR is unknown
	hasPort, hasDestPort bool       // present, and not unknown
	port, destPort       uint16
	name, helo           string // "" if absent or unknown
	esmtp                bool   // PROTO is ESMTP
}

// The values that stand for an unknown value (Postfix, XCLIENT_README).
const (
	unavailable = "[UNAVAILABLE]"
	tempUnavail = "[TEMPUNAVAIL]"
)

// parseXclient parses the attributes of an XCLIENT command: name=value, parted by blanks, the values in xtext (RFC 3461
// section 4). LOGIN is read and ignored: trust may only be lowered here.
func parseXclient(arg string) (o override, ok bool) {
	if arg == "" {
		return o, false
	}
	for attr := range strings.FieldsSeq(arg) {
		name, raw, hasValue := strings.Cut(attr, "=")
		value, clean := decodeXtext(raw)
		if !hasValue || !clean || !o.set(strings.ToUpper(name), value) {
			return o, false
		}
	}
	return o, true
}

func (o *override) set(name, value string) (ok bool) {
	unknown := strings.EqualFold(value, unavailable) || strings.EqualFold(value, tempUnavail)
	switch name {
	case "ADDR":
		o.noAddr, o.addr = unknown, netip.Addr{}
		if !unknown {
			o.addr, ok = parseXclientAddr(value)
			return ok
		}
	case "DESTADDR":
		o.dest = netip.Addr{}
		if !unknown {
			o.dest, ok = parseXclientAddr(value)
			return ok
		}
	case "PORT":
		o.hasPort = !unknown
		if !unknown {
			o.port, ok = parsePort(value)
			return ok
		}
	case "DESTPORT":
		o.hasDestPort = !unknown
		if !unknown {
			o.destPort, ok = parsePort(value)
			return ok
		}
	case "NAME":
		o.name = value
		if unknown {
			o.name = ""
		}
		return unknown || mail.IsDomain(value)
	case "HELO":
		o.helo = value
		if unknown {
			o.helo = ""
		}
		return unknown || value != "" && len(value) <= mail.MaxDomain && !strings.ContainsRune(value, ' ')
	case "PROTO":
		o.esmtp = strings.EqualFold(value, "ESMTP")
		return o.esmtp || strings.EqualFold(value, "SMTP")
	case "LOGIN":
	default:
		return false
	}
	return true
}

// parseXclientAddr parses an IPv4 address, or an IPv6 one behind "IPV6:".
func parseXclientAddr(s string) (netip.Addr, bool) {
	v6, isV6 := cutPrefixFold(s, "IPV6:")
	a, err := netip.ParseAddr(v6)
	if err != nil || a.Zone() != "" || a.Is4() == isV6 {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && s[0] != '+'
}

// decodeXtext decodes an xtext: "+" and two upper-case hexadecimal digits are one octet. The result is
// UTF-8 without control characters.
func decodeXtext(s string) (string, bool) {
	if strings.IndexByte(s, '+') >= 0 {
		b := make([]byte, 0, len(s))
		for i := 0; i < len(s); i++ {
			if s[i] != '+' {
				b = append(b, s[i])
				continue
			}
			if i+2 >= len(s) {
				return "", false
			}
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi > 15 || lo > 15 {
				return "", false
			}
			b = append(b, hi<<4|lo)
			i += 2
		}
		s = string(b)
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return "", false
		}
	}
	return s, utf8.ValidString(s)
}

func unhex(b byte) byte {
	switch {
	case '0' <= b && b <= '9':
		return b - '0'
	case 'A' <= b && b <= 'F':
		return b - 'A' + 10
	}
	return 0xff
}

// xclientCommand carries out XCLIENT: the client is the one that the attributes describe, trust is lowered, and a new
// Session begins with a greeting, as after connecting.
func (c *conn) xclientCommand(arg []byte) {
	switch {
	case !c.xclient:
		c.mistake(noXclient)
		return
	case c.tx.phase().open():
		c.mistake(xclientInside)
		return
	}
	o, ok := parseXclient(string(arg))
	if !ok {
		c.mistake(xclientSyntax)
		return
	}
	c.tx.end()
	old := c.session
	c.session = nil
	c.srv.closeSession(old)
	c.client.override(o)
	c.spent = budgets{}
	if o.addr.IsValid() {
		if limit := c.srv.name(c, o.addr); limit != "" {
			c.hangUp(tooManyConnections, limit)
			return
		}
	}
	c.session = c.srv.cfg.NewSession(c.srv.ctx, &c.client)
	if !c.greet() {
		c.life.end(closing)
		return
	}
	if c.client.Helo != "" {
		c.session.Helo(c.srv.ctx)
	}
}

// override makes the attributes those of the client.
func (cl *Client) override(o override) {
	cl.Lowered, cl.Login = true, nil
	cl.Helo, cl.ESMTP, cl.Name = o.helo, o.esmtp, o.name
	addr, port := cl.Addr.Addr(), cl.Addr.Port()
	if o.addr.IsValid() {
		addr, port, cl.Unknown = o.addr, 0, false
	}
	if o.noAddr {
		cl.Unknown = true
	}
	if o.hasPort {
		port = o.port
	}
	cl.Addr = netip.AddrPortFrom(addr, port)
	addr, port = cl.Local.Addr(), cl.Local.Port()
	if o.dest.IsValid() {
		addr = o.dest
	}
	if o.hasDestPort {
		port = o.destPort
	}
	cl.Local = netip.AddrPortFrom(addr, port)
}
