package admin

import "net/http"

// readiness is what has to hold for a node to get traffic. It is looked at anew for each request.
type readiness []Check

// A check is one line of /readyz.
type check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// answer writes the status and its reasons.
func (c readiness) answer(w http.ResponseWriter, _ *http.Request) {
	status, checks := c.checks()
	writeJSON(w, status, map[string]any{"ready": status == http.StatusOK, "checks": checks})
}

// checks returns the status of /readyz and its lines.
func (c readiness) checks() (status int, lines []check) {
	status = http.StatusOK
	lines = make([]check, len(c))
	for i, one := range c {
		ok, detail := one.OK()
		lines[i] = check{one.Name, ok, detail}
		if !ok {
			status = http.StatusServiceUnavailable
		}
	}
	return status, lines
}
