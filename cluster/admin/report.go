package admin

import (
	"context"
	"net/http"
)

// reported returns what answers requests for a report.
func reported(
	ask func(ctx context.Context, kind, domain, day string) (answer any, err error),
) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if ask == nil {
			writeJSON(w, http.StatusNotFound, map[string]any{
				"error": "no reports are made: the configuration has no section reports",
			})
			return
		}
		answer, err := ask(r.Context(), r.PathValue("kind"), r.PathValue("domain"), r.URL.Query().Get("day"))
		if err != nil {
			writeJSON(w, http.StatusBadRequest, map[string]any{"error": err.Error()})
			return
		}
		writeJSON(w, http.StatusOK, answer)
	}
}
