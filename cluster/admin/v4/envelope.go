package v4

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/router/leaf/printable"
)

// The codes of errors that are not those of package account. Clients of Cloudflare know all but the last.
const (
	codeNoPath = 7000  // there is no such path
	codeNoZone = 7003  // there is no such zone or account
	codeMethod = 10405 // the path does not know the method
	codeBody   = 2032  // the body is no JSON, or not what is wanted
	codePutOff = 2050  // destinations put a message off, or did not answer
)

// An Error is what a request is answered with in place of a result.
type Error struct {
	Status  int
	Code    int
	Message string
	Pointer string // to the wrong value of the body, as JSON pointers are written; "" for none
	Final   bool   // clients are not to repeat the request by themselves
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

func errNoPath() *Error {
	return &Error{Status: http.StatusNotFound, Code: codeNoPath, Message: "No route for that URI"}
}

func errMethod(method string) *Error {
	return &Error{Status: http.StatusMethodNotAllowed, Code: codeMethod,
		Message: printable.Text(method) + " is no method of this path"}
}

func errNoZone() *Error {
	return &Error{Status: http.StatusNotFound, Code: codeNoZone, Message: "there is no such zone"}
}

func errNoAccount() *Error {
	return &Error{Status: http.StatusNotFound, Code: codeNoZone, Message: "there is no such account"}
}

func errNoRule() *Error {
	return &Error{Status: http.StatusNotFound, Code: account.CodeNoRule, Message: "there is no such rule"}
}

// invalid returns the Error of a value of the body.
func invalid(pointer, message string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: account.CodeRefused, Message: message, Pointer: pointer}
}

// errorOf returns an error as it is answered. The text of one that is neither ours nor that of package account is not
// shown: it may name files.
func errorOf(err error) *Error {
	var own *Error
	var kept *account.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &kept):
		return &Error{Status: admin.StatusOf(kept.Kind), Code: kept.Code, Message: kept.Error()}
	}
	return &Error{Status: http.StatusInternalServerError, Code: account.CodeBusy, Message: "trouble of this relay"}
}

// A message is a line of an envelope.
type message struct {
	Code    int     `json:"code"`
	Message string  `json:"message"`
	Source  *source `json:"source,omitempty"`
}

type source struct {
	Pointer string `json:"pointer"`
}

// An envelope is around each answer.
type envelope struct {
	Success  bool        `json:"success"`
	Errors   []message   `json:"errors"`
	Messages []message   `json:"messages"`
	Result   any         `json:"result"`
	Info     *resultInfo `json:"result_info,omitempty"`
}

// write writes the answer of a handler, or its error.
func write(w http.ResponseWriter, a answer, err error) {
	final := err != nil
	status, e := http.StatusOK, envelope{
		Success: err == nil, Errors: []message{}, Messages: append([]message{}, a.messages...), Result: a.result,
		Info: a.info,
	}
	if err != nil {
		wrong := errorOf(err)
		status, final = wrong.Status, wrong.Final || wrong.Status < http.StatusInternalServerError
		e.Result, e.Info = nil, nil
		line := message{Code: wrong.Code, Message: wrong.Message}
		if wrong.Pointer != "" {
			line.Source = &source{wrong.Pointer}
		}
		e.Errors = append(e.Errors, line)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if final {
		h.Set("X-Should-Retry", "false") // 429 among others: a client that repeats by itself makes it worse
	}
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(e) // fails only when the client has gone
}

// A resultInfo says which part of a list a page is. Clients need all five numbers.
type resultInfo struct {
	Page       int `json:"page"`
	PerPage    int `json:"per_page"`
	Count      int `json:"count"`
	TotalCount int `json:"total_count"`
	TotalPages int `json:"total_pages"`
}

// The sizes of pages.
const (
	defaultPage = 50
	maxPage     = 1000
)

// paged returns the page of a list that a call asks for. The page behind the last is empty.
func paged[T any](c *call, all []T) (answer, error) {
	page, err := c.number("page", 1)
	if err != nil {
		return answer{}, err
	}
	size, err := c.number("per_page", defaultPage)
	if err != nil {
		return answer{}, err
	}
	size = min(size, maxPage)
	info := &resultInfo{Page: page, PerPage: size, TotalCount: len(all), TotalPages: (len(all) + size - 1) / size}
	out := []T{}
	if page <= info.TotalPages {
		first := (page - 1) * size
		out = all[first:min(first+size, len(all))]
	}
	info.Count = len(out)
	return answer{result: out, info: info}, nil
}

// number returns a positive number of the query, and otherwise if there is none.
func (c *call) number(key string, otherwise int) (int, error) {
	text := c.query.Get(key)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || n == 0 {
		return 0, invalid("", key+" has to be a number from 1 on")
	}
	return int(n), nil
}

// body reads the body of a call into v, if there is one: an absent body is as {}.
func (c *call) body(v any) error { return c.bodyOf(v, maxBody) }

// bodyOf is body for one of more octets.
func (c *call) bodyOf(v any, most int64) error {
	text, err := io.ReadAll(http.MaxBytesReader(nil, c.Body, most))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: codeBody, Message: "the body is too large"}
	case err != nil:
		return &Error{Status: http.StatusBadRequest, Code: codeBody, Message: "the body did not come whole"}
	case len(bytes.TrimSpace(text)) == 0:
		return nil
	}
	return decode(text, v)
}

// decode reads JSON. Members that are not known are passed over: clients send more than they want to have back.
func decode(text []byte, v any) error {
	err := json.Unmarshal(text, v)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field != "":
		return &Error{
			Status: http.StatusBadRequest, Code: codeBody, Pointer: "/" + strings.ReplaceAll(wrong.Field, ".", "/"),
			Message: wrong.Field + " is of the wrong type: " + wrong.Value,
		}
	case errors.As(err, &wrong):
		return &Error{Status: http.StatusBadRequest, Code: codeBody, Message: "the body is no JSON object"}
	case err != nil:
		return &Error{Status: http.StatusBadRequest, Code: codeBody, Message: "the body is no JSON"}
	}
	return nil
}
