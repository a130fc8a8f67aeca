package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/millrace/millrace/cluster/account"
)

// A Replay answers what the mail since a time would have met by the rules of a wish. The error is an *account.Error
// where the wish cannot be.
type Replay func(ctx context.Context, p account.Principal, w account.Wish, since string) (answer any, err error)

const (
	// maxRules bounds the text of rules of a token for all domains, and maxOwnRules that of another one, in octets of
	// a request.
	maxRules    = 128 << 20
	maxOwnRules = 1 << 20
	// planWithin is how long a request has to come, and its answer to go, beside what is worked on it.
	planWithin = 2 * time.Minute
)

// plans answers those who keep their rules as a text.
type plans struct {
	account.Deployer
	replay Replay        // nil: nothing is known of the mail
	turn   chan struct{} // holds a value while a replay is under way
}

// A wishBody is what a request says of a wish.
type wishBody struct {
	Owner   string `json:"owner"`
	Rules   string `json:"rules"`
	Version string `json:"version"`
	Keep    bool   `json:"keep"`
	Adopt   bool   `json:"adopt"`
	Since   string `json:"since"`
}

// taking returns a handler that reads a wish, which may be long, and writes what f returns for it.
func taking(f func(ctx context.Context, p account.Principal, w account.Wish, since string) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := http.NewResponseController(w)
		_ = at.SetReadDeadline(time.Now().Add(planWithin)) // this server's connections have deadlines
		_ = at.SetWriteDeadline(time.Now().Add(2*planWithin + ReplayWithin))
		p, most := account.Of(r.Context()), int64(maxOwnRules)
		if p.Unlimited() {
			most = maxRules
		}
		r.Body = http.MaxBytesReader(w, r.Body, most)
		var b wishBody
		if err := readBody(r, &b); err != nil {
			writeError(w, err)
			return
		}
		answer, err := f(r.Context(), p, account.Wish{
			Owner: b.Owner, Text: b.Rules, Version: b.Version, Keep: b.Keep, Adopt: b.Adopt,
		}, b.Since)
		if err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, answer)
	})
}

func (p *plans) plan(ctx context.Context, by account.Principal, w account.Wish, _ string) (any, error) {
	return p.Plan(ctx, by, w)
}

func (p *plans) apply(ctx context.Context, by account.Principal, w account.Wish, _ string) (any, error) {
	return p.Apply(ctx, by, w)
}

// ReplayWithin is how long a Replay may take.
const ReplayWithin = time.Minute

func (p *plans) replayed(ctx context.Context, by account.Principal, w account.Wish, since string) (any, error) {
	if p.replay == nil {
		return nil, &account.Error{Kind: account.Missing, Code: account.CodeUnkept,
			Message: "the configuration has no activity section: what mail there was is not known"}
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	default:
		return nil, &account.Error{Kind: account.Busy, Code: account.CodeBusy, Message: "another replay is under way"}
	}
	ctx, cancel := context.WithTimeout(ctx, ReplayWithin)
	defer cancel()
	return p.replay(ctx, by, w, since)
}

// rules answers with all rules: those of the API and, to a token for all domains, the lines of the rules files.
func (p *plans) rules(r *http.Request) (int, any, error) {
	by := account.Of(r.Context())
	all, err := p.Rules(by)
	if err != nil {
		return 0, nil, err
	}
	shown := make([]Route, 0, len(all))
	for _, rule := range all {
		shown = append(shown, routeOf(rule))
	}
	files := []account.FileRule{}
	if by.Unlimited() {
		if files, err = p.FileRules(by); err != nil {
			return 0, nil, err
		}
	}
	return http.StatusOK, map[string]any{"rules": shown, "files": files}, nil
}
