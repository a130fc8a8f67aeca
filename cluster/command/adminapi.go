package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/router/leaf/printable"
)

// An adminAPI is where a node answers administrators.
type adminAPI struct {
	name  string // in errors
	base  string // a URL without a path
	token []byte
	from  string // what knows of the token
}

// adminOf returns the admin server of the node that runs with cfg.
func adminOf(cfg *config.Config) (*adminAPI, error) {
	switch {
	case cfg.Admin == nil:
		return nil, errors.New("the configuration has no admin section, so nobody can be asked")
	case cfg.Admin.TokenFile == "":
		return nil, errors.New("the configuration has no admin.token_file, so nobody is told")
	}
	file, err := os.ReadFile(string(cfg.Admin.TokenFile))
	if err != nil {
		return nil, err
	}
	return &adminAPI{
		name: cfg.Admin.Addr, base: "http://" + reachable(cfg.Admin.Addr), token: admin.ParseToken(file),
		from: "admin.token_file",
	}, nil
}

// nodeFlags say which node is asked: the one that runs with a configuration, or one at a URL.
type nodeFlags struct {
	Config    string `short:"c" name:"config" placeholder:"FILE" help:"The configuration file of the running node."`
	URL       string `name:"url" placeholder:"URL" help:"@node_url"`
	TokenFile string `name:"token-file" placeholder:"FILE" help:"@node_token_file"`
}

// api returns the admin server that the flags name.
func (f *nodeFlags) api() (*adminAPI, error) {
	switch {
	case (f.Config == "") == (f.URL == ""):
		return nil, usageError{errors.New("say which node: --config FILE, or --url URL with --token-file FILE")}
	case (f.URL == "") != (f.TokenFile == ""):
		return nil, usageError{errors.New("--url and --token-file are said together")}
	case f.Config != "":
		cfg, err := config.Load(f.Config)
		if err != nil {
			return nil, err
		}
		return adminOf(cfg)
	}
	u, err := url.Parse(f.URL)
	switch {
	case err != nil:
		return nil, usageError{fmt.Errorf("--url: %w", err)}
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "", u.User != nil, strings.Trim(u.Path, "/") != "":
		return nil, usageError{errors.New("--url: is no URL such as https://mx1.example.com:8026")}
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, usageError{errors.New("--url: the token would go over the network in clear: use https, at " +
			"admin.tls_addr")}
	}
	file, err := os.ReadFile(f.TokenFile)
	if err != nil {
		return nil, err
	}
	return &adminAPI{
		name: u.Host, base: u.Scheme + "://" + u.Host, token: admin.ParseToken(file), from: f.TokenFile,
	}, nil
}

// isLoopback reports whether a host is this one.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// A nodeRequest is a request to the admin server of a node.
type nodeRequest struct {
	method, path string
	body         []byte
	most         time.Duration // the answer may take
	octets       int64         // the answer may have; 0 stands for maxStatus
}

// tell sends a request and returns the body of the answer.
func (a *adminAPI) tell(ctx context.Context, ask nodeRequest) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, ask.most)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, ask.method, a.base+ask.path, bytes.NewReader(ask.body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+string(a.token))
	// No proxy of the environment is used: it would read the token. Nor is a redirection followed.
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if ask.octets == 0 {
		ask.octets = maxStatus
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, ask.octets))
	var refused struct{ Error string }
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, &statusError{a.name, resp.StatusCode, "does not know the token of " + a.from}
	case resp.StatusCode == http.StatusBadRequest && json.Unmarshal(body, &refused) == nil && refused.Error != "":
		return nil, refusedByNode{errors.New(printable.Text(refused.Error))}
	case resp.StatusCode/100 != 2:
		if json.Unmarshal(body, &refused) != nil || refused.Error == "" {
			refused.Error = "answers " + resp.Status
		}
		return nil, &statusError{a.name, resp.StatusCode, printable.Text(refused.Error)}
	}
	return body, nil
}

// A statusError is an answer of a node that is no success.
type statusError struct {
	addr   string
	status int
	reason string // what the node says, or what HTTP calls the status
}

// Error returns the address and the reason.
func (e *statusError) Error() string { return e.addr + ": " + e.reason }

// A refusedByNode is a node's word on a request that it does not understand or carry out.
type refusedByNode struct{ error }

// reachable returns the address to connect to for an address that a node listens on: one of loopback if the node
// listens on all addresses.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	a, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && a.IsUnspecified() && a.Is4():
		host = "127.0.0.1"
	case err == nil && a.IsUnspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}
