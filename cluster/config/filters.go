package config

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/ingress/message/filter"
)

// A Filter is a program of others that is asked about messages. Zero values mean the defaults of package filter.
type Filter struct {
	Name         string   `yaml:"name"`
	Rspamd       string   `yaml:"rspamd"` // host:port, or "unix:" and a path
	Milter       string   `yaml:"milter"` // the same; one of the two
	PasswordFile File     `yaml:"password_file"`
	Deadline     Duration `yaml:"deadline"`
	Concurrency  int      `yaml:"concurrency"`
	Late         string   `yaml:"late"`       // "", "accept" or "tempfail"
	Quarantine   string   `yaml:"quarantine"` // "", "field" or "reject"
}

// maxFilters bounds the filters: each message waits for all of them, and each has labels in the metrics.
const maxFilters = 16

// FilterConfig returns a filter of the section as package filter takes it, without password and callbacks.
func (f *Filter) FilterConfig() filter.Config {
	cfg := filter.Config{
		Name: f.Name, Rspamd: f.Rspamd, Milter: f.Milter, Deadline: time.Duration(f.Deadline),
		Concurrency: f.Concurrency,
	}
	// What rspamd says is a score, and the node has one of its own: mail that it did not see is as all is without it.
	// What a milter says is a refusal, such as of a virus, and nothing makes good for one that was delivered.
	if f.Late == "tempfail" || f.Late == "" && f.Milter != "" {
		cfg.Late = filter.LateTempfail
	}
	if f.Quarantine == "reject" {
		cfg.Quarantine = filter.QuarantineReject
	}
	return cfg
}

// filters checks the section.
func (v *validator) filters(all []Filter, commit Duration) {
	if len(all) > maxFilters {
		v.add("filters", fmt.Sprintf("are %d, and %d at most are asked", len(all), maxFilters))
	}
	named := make(map[string]bool)
	for i := range all {
		f, field := &all[i], fmt.Sprintf("filters[%d]", i)
		switch {
		case !receiverName.MatchString(f.Name):
			v.add(field+".name",
				"is required: letters, digits, hyphens, underscores and dots, for the metrics and the log")
		case named[f.Name]:
			v.add(field+".name", f.Name+" stands twice")
		}
		named[f.Name] = true
		v.file(field+".password_file", f.PasswordFile)
		if f.Late != "" {
			v.oneOf(field+".late", f.Late, "accept", "tempfail")
		}
		if f.Quarantine != "" {
			v.oneOf(field+".quarantine", f.Quarantine, "field", "reject")
		}
		if _, written := v.places[field+".deadline"]; written && f.Deadline == 0 {
			v.add(field+".deadline", "is zero")
		}
		if _, written := v.places[field+".concurrency"]; written && f.Concurrency == 0 {
			v.add(field+".concurrency", "is zero")
		}
		if f.Deadline >= commit {
			v.add(field+".deadline", fmt.Sprintf("%s is not inside deadlines.commit, %s", f.Deadline, commit))
		}
		cfg := f.FilterConfig()
		if cfg.Name == "" {
			cfg.Name = "unnamed" // there is a complaint
		}
		v.partError(field+".", cfg.Validate())
	}
}
