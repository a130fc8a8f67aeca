package node

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/ingress/message/filter"
)

// makeFilters makes the content filters of the configuration, if it has any.
func (p *parts) makeFilters(h hooks) (err error) {
	p.filters, err = p.newFilters(h)
	return err
}

// newFilters returns the content filters of the configuration, nil if it has none. Nothing is connected to.
func (p *parts) newFilters(h hooks) (*filter.Set, error) {
	if len(p.cfg.Filters) == 0 {
		return nil, nil
	}
	var all []filter.Config
	for i := range p.cfg.Filters {
		f := &p.cfg.Filters[i]
		cfg := f.FilterConfig()
		cfg.Now, cfg.Changed, cfg.Floor = time.Now, h.filterChanged, int64(p.cfg.Limits.StreamFloor)
		if f.PasswordFile != "" {
			text, err := os.ReadFile(string(f.PasswordFile))
			if err != nil {
				return nil, p.cfg.WithLine("", fmt.Sprintf("filters[%d].password_file", i), err)
			}
			cfg.Password = strings.TrimSpace(string(text))
			if cfg.Password == "" || strings.ContainsAny(cfg.Password, "\r\n") {
				at := fmt.Sprintf("filters[%d].password_file", i)
				return nil, config.Problems{p.cfg.Problem(at, "holds no line, or several")}
			}
		}
		all = append(all, cfg)
	}
	s, err := filter.New(all)
	return s, p.cfg.WithLine("", "filters", err)
}

// logFilterChange logs that a filter is not asked any more, or answers again.
func (l *logger) logFilterChange(name string, why error) {
	if why == nil {
		l.say(slog.LevelInfo, "filter is well", "filter", name)
		return
	}
	l.say(slog.LevelWarn, "filter is not asked", "filter", name, "cause", why.Error())
}
