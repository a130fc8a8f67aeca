package node

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/config"
)

// TestConnect_Lists: a list that does not answer is no list that works, however its zone is written, and the key of a
// subscriber that is a part of the zone is not told.
func TestConnect_Lists(t *testing.T) {
	c, err := config.Parse(configFile(t), []byte(smallest+`postmaster: ops@elsewhere.example
dns: {servers: ["127.0.0.1:1"]}
score:
  lists:
    - {zone: Zen.example., weight: 3}
    - {zone: key2hunt.dq.example, name: DQ.example, weight: 3}
`), "")
	if err != nil {
		t.Fatal(err)
	}
	trials, err := Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, got := range trials {
		if strings.Contains(got.What+got.Why, "key2hunt") {
			t.Errorf("the key of a subscriber stands in %+v", got)
		}
		if strings.HasPrefix(got.Field, "score.lists") {
			n++
			if got.OK {
				t.Errorf("works without a name server: %+v", got)
			}
		}
	}
	if n != 2 {
		t.Errorf("%d lists were tried", n)
	}
}
