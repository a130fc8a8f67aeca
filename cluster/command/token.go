package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/router/leaf/printable"
)

type tokenVerbs struct {
	New    tokenNewVerb    `cmd:"" help:"@token_new"`
	List   tokenListVerb   `cmd:"" help:"@token_list"`
	Revoke tokenRevokeVerb `cmd:"" help:"@token_revoke"`
}

type (
	tokenNewVerb struct {
		Config  string        `short:"c" name:"config" placeholder:"FILE" help:"@token_config"`
		Name    string        `help:"@token_name"`
		Role    string        `enum:",read-only,owner,operator,admin" default:"" help:"@token_role"`
		Domains []string      `name:"domain" placeholder:"DOMAIN" help:"@token_domain"`
		For     time.Duration `placeholder:"TIME" help:"@token_for"`
		secretOut
	}
	tokenListVerb struct {
		configFlag
		jsonFlag
	}
	tokenRevokeVerb struct {
		configFlag
		ID string `arg:"" help:"@token_id"`
	}
)

// tokenTimeout bounds what a node needs for a change, which other nodes may have to hear of.
const tokenTimeout = 30 * time.Second

func (v *tokenNewVerb) run(s streams) int {
	if v.Config == "" {
		if v.Name != "" || v.Role != "" || len(v.Domains) > 0 || v.For != 0 {
			return fail(s, usageError{errors.New("a token with a name and a role is made by the running node: " +
				"--config says which")})
		}
		return v.write(s, "token", newSecret())
	}
	secret, err := v.make()
	if err != nil {
		return fail(s, err)
	}
	return v.write(s, "token", []byte(secret+"\n"))
}

// make has the running node make a token, and returns its secret.
func (v *tokenNewVerb) make() (string, error) {
	if v.Name == "" || v.Role == "" {
		return "", usageError{errors.New("a token of a node needs --name and --role")}
	}
	ask := map[string]any{"name": v.Name, "role": v.Role, "domains": v.Domains}
	if v.For != 0 {
		ask["expires"] = time.Now().Add(v.For).UTC().Truncate(time.Second)
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return "", err
	}
	var made struct{ Secret string }
	err = tokenRequest(v.Config, http.MethodPost, "", body, &made)
	return made.Secret, err
}

// tokenRequest asks the node that runs with a configuration file about tokens.
func tokenRequest(file, method, id string, body []byte, into any) error {
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	path := "/api/v1/tokens"
	switch {
	case id != "":
		path += "/" + id
	case method == http.MethodGet:
		path += "?per_page=1000"
	}
	answer, err := tellNode(context.Background(), cfg, nodeRequest{
		method: method, path: path, body: body, most: tokenTimeout,
	})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("%s: %w", cfg.Admin.Addr, err)
	}
	return nil
}

func (v *tokenListVerb) run(s streams) int {
	var all struct{ List []account.Token }
	if err := tokenRequest(v.Config, http.MethodGet, "", nil, &all); err != nil {
		return fail(s, err)
	}
	if v.JSON {
		printJSON(s.out, append([]account.Token{}, all.List...))
		return exitOK
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tROLE\tNAME\tDOMAINS\tMADE\tENDS")
	for _, k := range all.List {
		domains, ends := "all", "never"
		if len(k.Domains) > 0 {
			domains = strings.Join(k.Domains, " ")
		}
		if k.Expires != nil {
			ends = k.Expires.Format(time.RFC3339)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", printable.Text(k.ID), k.Role, printable.Text(k.Name),
			printable.Text(domains), k.Created.Format(time.RFC3339), ends)
	}
	if err := t.Flush(); err != nil {
		return fail(s, err)
	}
	return exitOK
}

func (v *tokenRevokeVerb) run(s streams) int {
	var old account.Token
	if strings.Trim(v.ID, "0123456789abcdef") != "" || v.ID == "" {
		return fail(s, usageError{errors.New("an id is what millrace token list prints, of hexadecimal digits")})
	}
	if err := tokenRequest(v.Config, http.MethodDelete, v.ID, nil, &old); err != nil {
		return fail(s, err)
	}
	fmt.Fprintf(s.out, "%s, %s, opens nothing any more.\n", printable.Text(old.Name), old.Role)
	return exitOK
}
