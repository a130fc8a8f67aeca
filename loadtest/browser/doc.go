// Package browser looks at the dashboard of a running node with a real browser: "make browser" does.
package browser
