package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// An Ask makes a GET request for a path of an API, and returns the status and the body of the answer.
type Ask func(ctx context.Context, path string) (status int, body []byte, err error)

// maxPages bounds the pages of a list: a server that ignores which page was asked for never sends an empty one.
const maxPages = 200

// pageSize is how many things a page has.
const pageSize = 50

// FetchCloudflare asks Cloudflare's API for what Email Routing does for a zone. The paths begin behind the version. A
// list of destinations that the token may not read is left out.
func FetchCloudflare(ctx context.Context, ask Ask, domain string) ([]Document, error) {
	var zones struct {
		Result []struct {
			ID      string `json:"id"`
			Name    string `json:"name"`
			Account struct {
				ID string `json:"id"`
			} `json:"account"`
		} `json:"result"`
	}
	text, err := fetch(ctx, ask, "/zones?name="+url.QueryEscape(domain))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &zones); err != nil {
		return nil, fmt.Errorf("/zones: %w", err)
	}
	if len(zones.Result) == 0 {
		return nil, fmt.Errorf("the token sees no zone %s", domain)
	}
	zone, account := zones.Result[0].ID, zones.Result[0].Account.ID
	base := "/zones/" + url.PathEscape(zone) + "/email/routing"
	var all []Document
	for _, path := range []string{base, base + "/rules/catch_all"} {
		text, err := fetch(ctx, ask, path)
		if err != nil {
			return nil, err
		}
		all = append(all, Document{path, text})
	}
	rules, err := fetchPages(ctx, ask, base+"/rules")
	if err != nil {
		return nil, err
	}
	all = append(all, rules...)
	addresses, err := fetchPages(ctx, ask, "/accounts/"+url.PathEscape(account)+"/email/routing/addresses")
	if errors.Is(err, errNotAllowed) { // a token for zones alone: it is noted that they were not read
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	return append(all, addresses...), nil
}

var errNotAllowed = errors.New("the token may not read this")

// fetch asks for a path, and returns the body of an answer that is a success.
func fetch(ctx context.Context, ask Ask, path string) ([]byte, error) {
	status, body, err := ask(ctx, path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	case status == http.StatusTooManyRequests:
		return nil, fmt.Errorf("%s: too many requests: try again in five minutes", path)
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return nil, fmt.Errorf("%s: %w: %s", path, errNotAllowed, cloudflareErrors(body))
	case status != http.StatusOK:
		return nil, fmt.Errorf("%s: %d: %s", path, status, cloudflareErrors(body))
	}
	return body, nil
}

// fetchPages asks for all pages of a list: until one is empty, or the answer says that it was the last.
func fetchPages(ctx context.Context, ask Ask, path string) (all []Document, err error) {
	for page, count := 1, 0; page <= maxPages; page++ {
		at := path + "?page=" + strconv.Itoa(page) + "&per_page=" + strconv.Itoa(pageSize)
		text, err := fetch(ctx, ask, at)
		if err != nil {
			return nil, err
		}
		var answer struct {
			Result []json.RawMessage `json:"result"`
			Info   struct {
				TotalPages int `json:"total_pages"`
				TotalCount int `json:"total_count"`
			} `json:"result_info"`
		}
		if err := json.Unmarshal(text, &answer); err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		if len(answer.Result) == 0 {
			return all, nil
		}
		all = append(all, Document{at, text})
		count += len(answer.Result)
		info := answer.Info
		if info.TotalPages > 0 && page >= info.TotalPages || info.TotalCount > 0 && count >= info.TotalCount {
			return all, nil
		}
	}
	return nil, fmt.Errorf("%s: has more than %d pages", path, maxPages)
}
