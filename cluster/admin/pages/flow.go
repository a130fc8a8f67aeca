package pages

import (
	"bytes"
	"context"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/router/mail"
)

const (
	// beat is how often the nodes are asked while a page of the flow is open.
	beat = 2 * time.Second
	// maxSamples is how many of these are shown: five minutes.
	maxSamples = 150
	// maxStreams bounds the pages that are kept up to date at a time, tokenStreams those of one token, and
	// sessionStreams those of one browser, which opens six connections to a server at most.
	maxStreams     = 32
	tokenStreams   = 16
	sessionStreams = 4
)

// A flow asks the nodes what they do, as long as a page shows it.
type flow struct {
	ask func(ctx context.Context) []admin.Live

	mu      sync.Mutex // never held across I/O; guards what follows
	viewers map[chan struct{}]viewer
	nodes   map[string]admin.Live // as they were at the last beat
	samples []sample
	latest  moment
	stop    context.CancelFunc // of the goroutine that asks; nil: there is none
	running sync.WaitGroup
	closed  bool
}

func newFlow(ask func(ctx context.Context) []admin.Live) *flow {
	return &flow{ask: ask, viewers: make(map[chan struct{}]viewer)}
}

// outcomes are the outcomes in the order in which they are shown.
var outcomes = []mail.Kind{mail.Relayed, mail.Dropped, mail.Deferred, mail.Refused, mail.Aborted}

// A sample is what came of mail in one beat, in events a second by outcomes.
type sample [5]float64

// A moment is what the page of the flow shows.
type moment struct {
	At       time.Time
	Rates    []rate
	Octets   float64 // a second
	P50, P95 time.Duration
	Slow     bool // P95 lies in the class without an end
	Measured bool // messages were relayed in this beat
	Nodes    []nodeRow
	Plot     plot
}

// A rate is how many events of an outcome there are a second.
type rate struct {
	Outcome string
	Rate    float64
}

// A nodeRow is one node of the flow.
type nodeRow struct {
	admin.Live
	Relayed, Others float64 // events a second
}

// A viewer is the session that has a page open, and its token.
type viewer struct{ session, token string }

// hasRoom reports whether a page more is kept up to date.
func (f *flow) hasRoom(v viewer) bool {
	ofSession, ofToken := 0, 0
	for _, other := range f.viewers {
		if other.token == v.token {
			ofToken++
		}
		if other.session == v.session {
			ofSession++
		}
	}
	return !f.closed && len(f.viewers) < maxStreams && ofToken < tokenStreams && ofSession < sessionStreams
}

// join adds a page of a session, whose channel gets a value at each beat, and false if there are too many.
func (f *flow) join(session, token string) (chan struct{}, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := viewer{session, token}
	if !f.hasRoom(v) {
		return nil, false
	}
	c := make(chan struct{}, 1)
	f.viewers[c] = v
	if f.stop == nil {
		var ctx context.Context
		ctx, f.stop = context.WithCancel(context.Background())
		f.running.Go(func() { f.run(ctx) }) // ends with the last page
	}
	return c, true
}

// leave takes a page away. With the last one nothing is asked any more.
func (f *flow) leave(c chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.viewers, c)
	if len(f.viewers) == 0 && f.stop != nil {
		f.stop()
		f.stop = nil
	}
}

// close ends the goroutine that asks. No page joins from now on.
func (f *flow) close() {
	f.mu.Lock()
	f.closed = true
	if f.stop != nil {
		f.stop()
	}
	f.mu.Unlock()
	f.running.Wait()
}

func (f *flow) run(ctx context.Context) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		f.note(f.asked(ctx))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// asked returns what the nodes say within a beat.
func (f *flow) asked(ctx context.Context) []admin.Live {
	ctx, cancel := context.WithTimeout(ctx, beat)
	defer cancel()
	return f.ask(ctx)
}

// look returns the moment as it is now, for a page that is being made.
func (f *flow) look(ctx context.Context) moment {
	f.mu.Lock()
	fresh := time.Since(f.latest.At) < beat
	f.mu.Unlock()
	if !fresh {
		f.note(f.asked(ctx))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.latest
}

// note takes up what the nodes said, and tells the pages. What they said long ago is no measure of now.
func (f *flow) note(live []admin.Live) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.latest.At) > 5*beat {
		f.nodes, f.samples = nil, nil
	}
	m := moment{At: now}
	var all sample
	took := make([]uint64, len(admin.LiveBounds())+1)
	compared := false
	nodes := make(map[string]admin.Live)
	for _, l := range live {
		nodes[l.Node] = l
		row := nodeRow{Live: l}
		if before, ok := f.nodes[l.Node]; ok && before.Failed == "" && l.Failed == "" && l.At.After(before.At) {
			compared = true
			rates := ratesOf(&before, &l)
			for i := range rates {
				all[i] += rates[i]
				if i == 0 {
					row.Relayed = rates[i]
				} else {
					row.Others += rates[i]
				}
			}
			m.Octets += perSecond(before.Octets, l.Octets, l.At.Sub(before.At))
			for i := range min(len(took), len(l.Took), len(before.Took)) {
				took[i] += l.Took[i] - min(before.Took[i], l.Took[i])
			}
		}
		m.Nodes = append(m.Nodes, row)
	}
	f.nodes = nodes
	if compared {
		f.samples = append(f.samples, all)
		f.samples = f.samples[max(0, len(f.samples)-maxSamples):]
	}
	for i, k := range outcomes {
		m.Rates = append(m.Rates, rate{k.String(), all[i]})
	}
	m.P50, _, m.Measured = quantile(took, 0.50)
	m.P95, m.Slow, _ = quantile(took, 0.95)
	m.Plot = plotOf(f.samples)
	f.latest = m
	for c := range f.viewers {
		select {
		case c <- struct{}{}:
		default: // it has not shown the last one
		}
	}
}

// ratesOf returns what a node did from one time to another, a second.
func ratesOf(before, after *admin.Live) (out sample) {
	d := after.At.Sub(before.At)
	for i, k := range outcomes {
		out[i] = perSecond(before.Outcomes[k.String()], after.Outcomes[k.String()], d)
	}
	return out
}

// perSecond returns how much a counter grew in a second. One that is smaller than before has begun anew.
func perSecond(before, after uint64, d time.Duration) float64 {
	if after < before {
		before = 0
	}
	return float64(after-before) / d.Seconds()
}

// quantile returns the end of the class in which a share of all is reached, whether that class has none, and whether
// there is anything at all.
func quantile(classes []uint64, share float64) (end time.Duration, endless, ok bool) {
	var sum uint64
	for _, n := range classes {
		sum += n
	}
	if sum == 0 {
		return 0, false, false
	}
	bounds := admin.LiveBounds()
	var below uint64
	for i, n := range classes {
		if below += n; float64(below) >= share*float64(sum) && n > 0 {
			if i >= len(bounds) {
				return bounds[len(bounds)-1], true, true
			}
			return bounds[i], false, true
		}
	}
	return bounds[len(bounds)-1], true, true
}

// A plot is the curves of a picture, 0 to 100 in both directions.
type plot struct {
	Most   string // what the top stands for
	Curves []curve
}

// A curve is the points of one, as SVG has them.
type curve struct{ Name, Points string }

// plotOf draws the outcomes of samples, the newest at the right end.
func plotOf(samples []sample) plot {
	most := 1.0
	for _, s := range samples {
		for _, v := range s {
			most = max(most, v)
		}
	}
	most = ceiling(most)
	p := plot{Most: strconv.FormatFloat(most, 'f', -1, 64)}
	for i, k := range outcomes {
		var points strings.Builder
		for j, s := range samples {
			x := 100 - 100*float64(len(samples)-1-j)/float64(maxSamples-1)
			fmt.Fprintf(&points, "%.2f,%.2f ", x, 100-100*s[i]/most)
		}
		p.Curves = append(p.Curves, curve{k.String(), strings.TrimSpace(points.String())})
	}
	return p
}

// ceiling returns the least of 1, 2, 5, 10, 20 and so on that is not below v.
func ceiling(v float64) float64 {
	for unit := 1.0; ; unit *= 10 {
		for _, n := range []float64{1, 2, 5} {
			if v <= n*unit {
				return n * unit
			}
		}
	}
}

// live keeps the page of the flow up to date, by server-sent events whose data is the part of the page that changes.
func (p *Pages) live(w http.ResponseWriter, r *http.Request, _ account.Principal) {
	at := http.NewResponseController(w)
	s := sessionOf(r)
	beats, ok := p.flow.join(s.csrf, s.token)
	if !ok {
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	defer p.flow.leave(beats)
	w.Header().Set("Content-Type", "text/event-stream")
	part := p.html[langOf(r)]["flow"]
	for {
		select {
		case <-r.Context().Done():
			return
		case <-p.ctx.Done():
			return
		case <-beats:
		}
		if p.sessionFor(r) == nil { // the token was withdrawn, or the session is over
			return
		}
		if err := p.send(w, at, part); err != nil {
			return
		}
	}
}

// send sends the part of the page of the flow that changes.
func (p *Pages) send(w http.ResponseWriter, at *http.ResponseController, part *template.Template) error {
	p.flow.mu.Lock()
	m := p.flow.latest
	p.flow.mu.Unlock()
	var out bytes.Buffer
	if err := part.ExecuteTemplate(&out, "flowing", m); err != nil {
		return err
	}
	_ = at.SetReadDeadline(time.Time{}) // those of the server are for requests; a test may have none
	_ = at.SetWriteDeadline(time.Now().Add(5 * beat))
	var event strings.Builder
	event.WriteString("event: flow\n")
	for line := range strings.Lines(out.String()) {
		if line = strings.TrimSpace(line); line != "" {
			event.WriteString("data: " + line + "\n")
		}
	}
	if _, err := w.Write([]byte(event.String() + "\n")); err != nil {
		return err
	}
	return at.Flush()
}

// A siteRow is a Site, and what the nodes have with it.
type siteRow struct {
	admin.ClusterSite
	Nodes []string // that have sessions with it
}

// A sitesBody is the body of the page of the Sites.
type sitesBody struct {
	Sites   []siteRow
	More    bool // some may be missing
	Failed  []admin.Live
	Cluster admin.ClusterStatus
}

func (p *Pages) sites(w http.ResponseWriter, r *http.Request, _ account.Principal) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	body := sitesBody{Cluster: p.cfg.Cluster()}
	at := make(map[mail.Site]int)
	for _, l := range p.cfg.Live(ctx) {
		if l.Failed != "" {
			body.Failed = append(body.Failed, l)
		}
		body.More = body.More || len(l.Sites) >= admin.MaxLiveSites
		for _, s := range l.Sites {
			i, ok := at[s.Site]
			if !ok {
				i = len(body.Sites)
				at[s.Site] = i
				body.Sites = append(body.Sites, siteRow{ClusterSite: admin.ClusterSite{Site: s.Site, Owner: s.Owner}})
			}
			have := &body.Sites[i]
			have.Open, have.Idle, have.Waiting = have.Open+s.Open, have.Idle+s.Idle, have.Waiting+s.Waiting
			if s.Open+s.Waiting > 0 && l.Node != "" {
				have.Nodes = append(have.Nodes, l.Node)
			}
		}
	}
	p.show(w, r, "sites", http.StatusOK, page{Title: "nav.sites", Body: body})
}
