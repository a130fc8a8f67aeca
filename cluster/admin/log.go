package admin

import (
	"context"
	"net/http"
	"net/url"
)

// A Reading answers a question about the activity log, by the filters of a request, for the one who asks (account.Of).
// The error says what is wrong with the filters. A nil Reading says that there is no log.
type Reading func(ctx context.Context, filters url.Values) (answer any, err error)

// An Activity is what answers by the activity log.
type Activity struct {
	Log     Reading // GET /api/v1/log
	Senders Reading // GET /api/v1/log/senders
	Replay  Replay  // POST /api/v1/replay
}

// reading returns what answers requests by a Reading.
func reading(read Reading) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if read == nil {
			writeJSON(w, http.StatusNotFound, map[string]any{
				"error": "no activity log is kept: the configuration has no section activity",
			})
			return
		}
		answer, err := read(r.Context(), r.URL.Query())
		if err != nil {
			writeJSON(w, http.StatusBadRequest, map[string]any{"error": err.Error()})
			return
		}
		writeJSON(w, http.StatusOK, answer)
	}
}
