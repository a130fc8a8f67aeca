package config

import (
	"time"

	"github.com/millrace/millrace/cluster/activity"
)

// Activity says how much is kept of the activity log.
type Activity struct {
	Keep   Duration `yaml:"keep"`
	Memory Size     `yaml:"memory"`
}

// setDefaults sets what is not written.
func (a *Activity) setDefaults(written func(field string) bool) {
	if !written("activity.keep") {
		a.Keep = Duration(7 * 24 * time.Hour)
	}
	if !written("activity.memory") {
		a.Memory = 64 << 20
	}
}

// activity checks the section with the validation of package activity.
func (v *validator) activity(a *Activity) {
	cfg := activity.Config{Keep: time.Duration(a.Keep), Octets: int64(a.Memory)}
	v.partError("activity.", cfg.Validate())
}
