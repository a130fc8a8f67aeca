package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// play runs one scene, in a process that has a network of its own; see scene.
func play(ctx context.Context, out io.Writer, binary, name string) error {
	if name == "far" {
		figures, err := far(ctx, binary)
		fmt.Fprintln(out, figures)
		return err
	}
	run, ok := map[string]func(context.Context, *world) (string, error){
		"split":       func(ctx context.Context, w *world) (string, error) { return split(ctx, w, false) },
		"split-owner": func(ctx context.Context, w *world) (string, error) { return split(ctx, w, true) },
		"pair":        func(ctx context.Context, w *world) (string, error) { return pairCut(ctx, w, true) },
		"oneway":      func(ctx context.Context, w *world) (string, error) { return pairCut(ctx, w, false) },
	}[name]
	if f, ok := faults[name]; ok {
		return playUnable(ctx, out, binary, f)
	}
	if !ok {
		return fmt.Errorf("no scene %q", name)
	}
	w, err := newWorld(ctx, binary)
	if err != nil {
		return err
	}
	defer w.close()
	figures, err := run(ctx, w)
	fmt.Fprintln(out, figures)
	if err != nil {
		fmt.Fprintln(out, w.logs())
	}
	return err
}

// crowd is how many senders there are on each side: together twice what the Site's limit allows at once, and more than
// it on each.
const crowd = siteSessions + 4

// ownerOf lets mail in and returns the node that owns its Site, and the others.
func (w *world) ownerOf(ctx context.Context) (owner *fleet.Member, others []*fleet.Member, err error) {
	l := &fleet.Load{
		Name: "warm", Addrs: fleet.AnyOf(w.Fleet.Nodes), Forward: fleet.Always("ok@plain.test"), Clients: 6,
		Messages: 60,
	}
	if err := fleet.Count(l.Run(ctx), w.Plain).Err(); err != nil {
		return nil, nil, err
	}
	return w.Fleet.OwnerOf(ctx, plainHost)
}

// split cuts one node off from the two others, as a cut between data centres does: it still reaches destinations and
// Redis. The node is the owner of the Site, or another one.
func split(ctx context.Context, w *world, ownerAlone bool) (string, error) {
	owner, others, err := w.ownerOf(ctx)
	if err != nil {
		return "", err
	}
	alone, together := others[0], []*fleet.Member{owner, others[1]}
	if ownerAlone {
		alone, together = owner, others
	}
	one, two := w.side(ctx, "one", crowd, alone), w.side(ctx, "two", crowd, together...)
	begun := time.Now()
	full := func() bool { return w.Plain.Counts().Current == siteSessions }
	if err := fleet.Await(ctx, 5*time.Second, "the whole limit is used", full); err != nil {
		return "", err
	}
	fleet.Rest(ctx, 500*time.Millisecond)

	cutAt := time.Now()
	for _, m := range together {
		if err := errors.Join(alone.Cut(ctx, m), m.Cut(ctx, alone)); err != nil {
			return "", err
		}
	}
	_, err1 := w.Fleet.Out(ctx, []*fleet.Member{alone}, 1)
	aloneAfter := time.Since(cutAt)
	_, err2 := w.Fleet.Out(ctx, together, 2)
	noticed := time.Now()
	fleet.Rest(ctx, 3*time.Second)

	healAt := time.Now()
	for _, m := range together {
		if err := errors.Join(alone.Join(ctx, m), m.Join(ctx, alone)); err != nil {
			return "", err
		}
	}
	err3 := fleet.Await(ctx, 20*time.Second, "one ring", func() bool { return w.Fleet.Merged(ctx) })
	mergedAt := time.Now()
	fleet.Rest(ctx, time.Second)
	err4 := fleet.Await(ctx, 5*time.Second, "the whole limit is used again", full)
	fleet.Rest(ctx, 500*time.Millisecond)
	ended := time.Now()
	close(one.stop)
	close(two.stop)
	n := fleet.Count(append(<-one.done, <-two.done...), w.Plain)

	figures := fmt.Sprintf("cut off: %s; noticed after %s by the one, %s by all; merged %s after it healed\n%s",
		whose(ownerAlone), fleet.MS(aloneAfter), fleet.MS(noticed.Sub(cutAt)), fleet.MS(mergedAt.Sub(healAt)), n)
	err = errors.Join(err1, err2, err3, err4, n.Err(), within("the merge", mergedAt.Sub(healAt), 15*time.Second))
	for _, s := range []*side{one, two} {
		got, _, _ := s.between(noticed, healAt)
		_, silence, deferred := s.between(cutAt, healAt)
		_, after, _ := s.between(healAt, ended)
		figures += fmt.Sprintf("\nside of %s: %d messages in the %s after all had noticed; none for %s at most "+
			"after the cut and %s after it healed; %d deferred",
			s.load.Name, got, fleet.MS(healAt.Sub(noticed)), fleet.MS(silence), fleet.MS(after), deferred)
		if got == 0 {
			err = errors.Join(err, errors.New("no mail on the side of "+s.load.Name))
		}
	}
	figures += "\nsessions at the destination at most"
	for _, phase := range []struct {
		name     string
		from, to time.Time
	}{
		{"before", begun, cutAt}, {"until it was noticed", cutAt, noticed}, {"while cut", noticed, healAt},
		{"merging", healAt, mergedAt}, {"after", mergedAt, ended},
	} {
		most, above := w.watch.most(phase.from, phase.to, siteSessions)
		figures += fmt.Sprintf("; %s: %d", phase.name, most)
		if above > 0 {
			figures += fmt.Sprintf(" (%s over the limit)", fleet.MS(above))
		}
	}
	if c := w.Plain.Counts(); c.Peak > siteSessions {
		err = errors.Join(err, fmt.Errorf("%d sessions at once, the Site's limit is %d", c.Peak, siteSessions))
	}
	return figures, err
}

func whose(owner bool) string {
	if owner {
		return "the owner"
	}
	return "a node that is not the owner"
}

// cutFor is how long a pair of nodes is cut, and known after what time none may hand mail to the other any more.
const (
	cutFor  = 7 * time.Second
	noticed = 5500 * time.Millisecond
)

// pairCut cuts the owner and one other node from each other, or only the way from the owner to it. The third sees both.
func pairCut(ctx context.Context, w *world, bothWays bool) (string, error) {
	owner, others, err := w.ownerOf(ctx)
	if err != nil {
		return "", err
	}
	parted, third := others[0], others[1]
	one, two := w.side(ctx, "one", crowd, parted), w.side(ctx, "two", crowd, owner, third)
	full := func() bool { return w.Plain.Counts().Current == siteSessions }
	if err := fleet.Await(ctx, 5*time.Second, "the whole limit is used", full); err != nil {
		return "", err
	}
	fleet.Rest(ctx, 500*time.Millisecond)
	cutAt := time.Now()
	err = owner.Cut(ctx, parted)
	if bothWays {
		err = errors.Join(err, parted.Cut(ctx, owner))
	}
	if err != nil {
		return "", err
	}
	fleet.Rest(ctx, cutFor)
	healAt := time.Now()
	members := w.Fleet.Sees(ctx, w.Fleet.Nodes, 3)
	if err := errors.Join(owner.Join(ctx, parted),
		parted.Join(ctx, owner)); err != nil {
		return "", err
	}
	fleet.Rest(ctx, time.Second)
	again := fleet.Await(ctx, 6*time.Second, "the whole limit is used again", full)
	fleet.Rest(ctx, 500*time.Millisecond)
	close(one.stop)
	close(two.stop)
	n := fleet.Count(append(<-one.done, <-two.done...), w.Plain)
	got, silence, _ := one.between(cutAt, healAt)
	_, _, atOnce := one.between(cutAt, cutAt.Add(noticed))
	_, _, late := one.between(cutAt.Add(noticed), healAt)
	other, otherSilence, deferred := two.between(cutAt, healAt)
	most, above := w.watch.most(cutAt, healAt, siteSessions)
	mostAfter, aboveAfter := w.watch.most(healAt, time.Now(), siteSessions)
	figures := fmt.Sprintf("%s\nin %s at the node that does not reach the owner: %d messages, none for %s at most, "+
		"%d deferred in the first %s and %d later\nat the others: %d messages, none for %s at most, %d "+
		"deferred\nsessions at the destination at most: %d (%s over the limit) while cut, %d (%s) after it "+
		"healed; gossip saw it: %v",
		n, fleet.MS(healAt.Sub(cutAt)), got, fleet.MS(silence), atOnce, fleet.MS(noticed), late, other,
		fleet.MS(otherSilence), deferred,
		most, fleet.MS(above), mostAfter, fleet.MS(aboveAfter), !members)
	err = errors.Join(n.Err(), again)
	if c := w.Plain.Counts(); c.Peak > siteSessions {
		err = errors.Join(err, fmt.Errorf("%d sessions at once, the Site's limit is %d", c.Peak, siteSessions))
	}
	if late > 0 {
		err = errors.Join(err, errors.New("messages were deferred after it was known that the owner is not reached"))
	}
	return figures, err
}
