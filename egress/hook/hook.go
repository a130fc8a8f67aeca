// Package hook is the one HTTPS client for what others name: the receivers of events and whatever else a configuration,
// a rule or a DNS record asks this node to connect to.
//
// It owns which URLs and addresses may be asked, the bounds of a request and the signature of what is posted. It
// refuses to know what is posted or fetched, and when a request is repeated.
//
// Invariants: an address is judged right before it is connected to, whatever its name said before; none that is private
// or this machine's is connected to unless the configuration lists it; a redirect is an answer and is not followed;
// certificates are verified; no environment and no cookie counts; each request ends within maxTime and takes at most
// its Limit of octets; an error holds neither the path of the URL nor the text of an answer.
package hook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A Config says which resolver to ask and what may be connected to.
type Config struct {
	Resolver *dns.Resolver // required
	// Private are networks that may be connected to although they are not public. A host in them may be asked by http.
	Private []netip.Prefix
	// Own are addresses of this machine, without those of IPv4 in IPv6. One that no element of Private holds is not
	// connected to.
	Own []netip.Addr
	// Conns bounds the connections to one host, under way and kept. 0 means 8, of which 2 are kept.
	Conns int
	// Roots are the authorities that certificates are verified against; nil means those of the system.
	Roots *x509.CertPool
}

const (
	// maxTime bounds a request from the look-up of its host to the last octet of its answer.
	maxTime = 15 * time.Second
	// connectTime bounds the look-up and the TCP connections of it, handshakeTime the TLS handshake.
	connectTime   = 5 * time.Second
	handshakeTime = 5 * time.Second
	// idleTime is how long a connection is kept: less than the minute after which many servers close one.
	idleTime = 50 * time.Second
	// hostConns and hostIdle bound the connections to one host, under way and kept; idleConns those kept to all hosts.
	hostConns, hostIdle, idleConns = 8, 2, 64
	// maxHeader bounds the header section of an answer in octets.
	maxHeader = 16 << 10
)

// A Client asks and posts. Its methods are safe for concurrent use.
type Client struct {
	cfg       Config
	transport *http.Transport
}

// New returns a Client. It connects to nothing.
func New(c Config) (*Client, error) {
	if c.Resolver == nil {
		return nil, &mail.FieldError{Field: "resolver", Reason: "is missing"}
	}
	client := &Client{cfg: c}
	client.transport = &http.Transport{
		DialContext:            client.dial, // and Proxy is nil: the environment names none
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots},
		TLSHandshakeTimeout:    handshakeTime,
		DisableCompression:     true, // a Limit counts what is read
		MaxIdleConns:           idleConns,
		MaxIdleConnsPerHost:    cmp.Or(c.Conns, hostIdle),
		MaxConnsPerHost:        cmp.Or(c.Conns, hostConns),
		IdleConnTimeout:        idleTime,
		MaxResponseHeaderBytes: maxHeader,
	}
	return client, nil
}

// Close closes the connections that are kept. Requests under way go on.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// A Request is one request. The URL is one that CheckURL takes.
type Request struct {
	Method string // http.MethodGet or http.MethodPost
	URL    string
	Header http.Header // not changed
	Body   []byte      // not changed
	Limit  int         // the most octets that the body of the answer may have
}

// A Response is what a host answered, whatever its status.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// ErrTooLarge means that the body of an answer is larger than the request's Limit.
var ErrTooLarge = errors.New("the answer is too large")

// Do makes one request and reads the whole answer. A status that is no success is no error. The request ends with ctx,
// and after maxTime at the latest.
func (c *Client) Do(ctx context.Context, r Request) (Response, error) {
	if err := CheckURL(r.URL, c.cfg.Private); err != nil {
		return Response{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, r.Method, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return Response{}, errors.New("is no request")
	}
	maps.Copy(request.Header, r.Header)
	request.Header.Set("User-Agent", "millrace")
	answer, err := c.transport.RoundTrip(request) // which follows no redirect and knows no cookies
	if err != nil {
		return Response{}, failureOf(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, int64(r.Limit)+1))
	switch {
	case err != nil:
		return Response{}, failureOf(err)
	case len(body) > r.Limit:
		return Response{}, ErrTooLarge
	}
	return Response{Status: answer.StatusCode, Header: answer.Header, Body: body}, nil
}

// failureOf returns the error of a request without what the host answered: the text of a malformed answer may say
// whatever its host likes, or what another service behind the address has to say.
func failureOf(err error) error {
	var refused *AddressError
	var lookup *dns.Error
	var certificate *tls.CertificateVerificationError
	var op interface{ Timeout() bool }
	switch {
	case errors.As(err, &refused), errors.As(err, &lookup), errors.As(err, &certificate):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &op):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the connection was closed: %w", err)
	}
	return errors.New("no answer of HTTP came")
}

// CheckURL returns what is wrong with a URL that others name, nil if nothing is: https, a host and nothing secret in
// the part before it. http may ask an address in a network of private alone. The text of a URL may be a secret, so that
// it is not repeated.
func CheckURL(text string, private []netip.Prefix) error {
	u, err := url.Parse(text)
	if err != nil || !ascii.Is(text) {
		return errors.New("is not a URL of ASCII characters")
	}
	addr, addrErr := netip.ParseAddr(u.Hostname())
	port, portErr := strconv.ParseUint(cmp.Or(u.Port(), "443"), 10, 16)
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("does not begin with https://")
	case u.Opaque != "" || u.Hostname() == "":
		return errors.New("names no host")
	case u.User != nil:
		return errors.New("holds a user name: the signature says who sends")
	case u.Fragment != "":
		return errors.New("holds a fragment, #, which is never sent")
	case portErr != nil || port == 0:
		return errors.New("has a port that is no number from 1 to 65535")
	case addrErr != nil && !mail.IsDomain(u.Hostname()):
		return errors.New("names a host that is neither a domain name nor an address")
	case addrErr == nil && addr.Zone() != "":
		return errors.New("names an address with a zone")
	case u.Scheme == "http" && (addrErr != nil || !listed(addr, private)):
		return errors.New("begins with http://, which is for addresses in listed private networks: write https://")
	}
	return nil
}
