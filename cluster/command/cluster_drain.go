package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/millrace/millrace/cluster/config"
)

type clusterDrainVerb struct {
	configFlag
	NoWait bool `name:"no-wait" help:"Ask, and do not wait."`
	jsonFlag
}

// say prints what the node does.
func (v *clusterDrainVerb) say(s streams, state string) {
	if v.JSON {
		printJSON(s.out, map[string]string{"state": state})
		return
	}
	fmt.Fprintln(s.out, state)
}

// drainPoll is the time between two attempts to connect to the node that drains.
const drainPoll = 50 * time.Millisecond

func (v *clusterDrainVerb) run(s streams) int {
	if err := v.drain(s); err != nil {
		return fail(s, err)
	}
	return exitOK
}

// drain asks the node to end as at SIGTERM and waits until the last client has gone. The admin server of the node ends
// then.
func (v *clusterDrainVerb) drain(s streams) error {
	cfg, err := config.Load(v.Config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(),
		time.Duration(cfg.Drain)+time.Duration(cfg.Deadlines.Commit)+statusTimeout)
	defer cancel()
	if _, err := askNode(ctx, cfg, http.MethodPost, "/api/v1/cluster/drain"); err != nil {
		return err
	}
	if v.NoWait || !v.JSON { // for a program, the last state alone
		v.say(s, "draining")
	}
	if v.NoWait {
		return nil
	}
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "tcp", reachable(cfg.Admin.Addr))
		if err != nil && ctx.Err() == nil {
			v.say(s, "drained")
			return nil
		}
		if err == nil {
			conn.Close()
		}
		select {
		case <-ctx.Done():
			return errors.New("the node drains and still has clients")
		case <-time.After(drainPoll):
		}
	}
}
