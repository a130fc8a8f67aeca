package admin

import (
	"io"
	"net/http"
	"time"
)

const (
	// maxQuestion bounds the body of a request for a check, in octets.
	maxQuestion = 16 << 10
	// checkTimeout bounds the answer to it: other nodes are asked, and hosts that do not answer.
	checkTimeout = 4 * time.Minute
)

// check answers with Config.Check, or with 404 if that is nil.
func (s *Server) check(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Check == nil {
		http.NotFound(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuestion))
	if err != nil {
		writeJSON(w, http.StatusRequestEntityTooLarge, map[string]any{"error": "the question is too long"})
		return
	}
	// It takes longer than other answers do, and the end of the time to read would end it as a client does that has
	// gone. A connection that cannot be told so ends at their limits.
	c := http.NewResponseController(w)
	_, _ = c.SetReadDeadline(time.Now().Add(checkTimeout)), c.SetWriteDeadline(time.Now().Add(checkTimeout))
	answer, err := s.cfg.Check(r.Context(), r.PathValue("what"), body)
	if err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]any{"error": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, answer)
}
