package pages

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A lang is a language of the pages.
type lang int

// The languages, as they stand in texts.
const (
	english lang = iota
	japanese
	langs
)

var langNames = [langs]string{"en", "ja"}

// String returns the language's tag (RFC 5646).
func (l lang) String() string { return langNames[l] }

// langCookie keeps the language that a visitor chose.
const langCookie = "millrace_lang"

// langOf returns the language of a visitor: the one that was chosen, else the first that the browser asks for.
func langOf(r *http.Request) lang {
	if c, err := r.Cookie(langCookie); err == nil {
		switch c.Value {
		case "ja":
			return japanese
		case "en":
			return english
		}
	}
	for _, tag := range strings.Split(r.Header.Get("Accept-Language"), ",") {
		switch tag = strings.ToLower(strings.TrimSpace(tag)); {
		case strings.HasPrefix(tag, "ja"):
			return japanese
		case strings.HasPrefix(tag, "en"):
			return english
		}
	}
	return english
}

// setLanguage sets the language of a visitor.
func setLanguage(w http.ResponseWriter, r *http.Request) {
	to := "en"
	if r.PostFormValue("to") == "ja" {
		to = "ja"
	}
	http.SetCookie(w, &http.Cookie{
		Name: langCookie, Value: to, Path: "/", MaxAge: 365 * 24 * 3600, HttpOnly: true,
		SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
	})
	http.Redirect(w, r, localPath(r.PostFormValue("next")), http.StatusSeeOther)
}

// localPath returns where a link within the pages leads, "/" for one that would lead elsewhere.
func localPath(s string) string {
	u, err := url.Parse(s)
	if err != nil || !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.ContainsAny(s, "\\\r\n\t") ||
		u.Host != "" || u.Scheme != "" {
		return "/"
	}
	return u.RequestURI()
}

func nextQuery(path string) string { return url.Values{"next": {path}}.Encode() }

// count returns a number with a blank that does not break between its groups.
func count(n any) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// size returns octets as people read them.
func size(octets float64) string {
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if octets < 1000 {
			return strconv.FormatFloat(octets, 'f', 0, 64) + " " + unit
		}
		octets /= 1024
	}
	return strconv.FormatFloat(octets, 'f', 1, 64) + " GiB"
}

// millis returns a time as people read it.
func millis(d time.Duration) string {
	switch {
	case d <= 0:
		return "0"
	case d < time.Millisecond:
		return strconv.FormatFloat(float64(d)/1e6, 'f', 2, 64) + " ms"
	case d < 10*time.Second:
		return strconv.FormatFloat(float64(d)/1e6, 'f', 0, 64) + " ms"
	case d < 2*time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 0, 64) + " s"
	}
	return d.Round(time.Second).String()
}

// words are the texts of the pages in one language, by their keys.
type words map[string]string

// wordsOf reads the texts of a language from a file with lines of key, English and Japanese, with tabs between them.
func wordsOf(file string, l lang) words {
	out := make(words)
	for line := range strings.Lines(file) {
		parts := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(parts) == 1+int(langs) {
			out[parts[0]] = parts[1+int(l)]
		}
	}
	return out
}

// of returns a text. A key without one is shown itself.
func (w words) of(key string) string { return cmp.Or(w[key], key) }
