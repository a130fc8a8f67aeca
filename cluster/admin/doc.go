// Package admin is the administrators' side of a node: health, readiness, metrics and the API over HTTP, on an address
// of its own.
//
// It owns the HTTP server with its limits, the names of the metrics, and that everything but health and metrics asks
// for a token, which package account knows. It refuses to know how a node is built: it gets what it shows as functions,
// and what happened as events. It is the only place that knows the Prometheus library and the metrics of OpenTelemetry.
package admin
