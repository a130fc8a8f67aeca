package store

import (
	"context"
	"fmt"
	"time"
)

// Shelves keep texts for other nodes and for later runs of this one. Their methods are safe for concurrent use.
type Shelves struct{ redis *shared }

// ShelvesOf returns those of a Store, nil without Redis.
func ShelvesOf(s *Store) *Shelves {
	if !s.HasRedis() {
		return nil
	}
	return &Shelves{s.redis}
}

// shelvesKept is how long a text is kept after the last one of its name.
const shelvesKept = 50 * time.Hour

// Keep keeps texts by their fields under a name, in place of those that have the same field. It reports whether Redis
// took them.
func (s *Shelves) Keep(ctx context.Context, name string, fields map[string]string) bool {
	key := s.redis.key(group(name), kindShelf)
	line := []any{"HSET", key}
	for field, text := range fields {
		line = append(line, field, text)
	}
	return s.redis.run(ctx, []call{
		command(ctx, line...), command(ctx, "PEXPIRE", key, millis(shelvesKept)),
	}, nil)
}

// Load returns all texts under a name, none if there are none. ok is false if Redis does not answer.
func (s *Shelves) Load(ctx context.Context, name string) (fields map[string]string, ok bool) {
	fields = make(map[string]string)
	all := command(ctx, "HGETALL", s.redis.key(group(name), kindShelf))
	ok = s.redis.run(ctx, []call{all}, func(calls []call) error {
		return decodeShelf(calls[0].cmd.Val(), fields)
	})
	return fields, ok
}

// decodeShelf reads the answer to HGETALL, which is a map, or in the older protocol a list.
func decodeShelf(v any, fields map[string]string) error {
	add := func(field, text any) error {
		name, ok := field.(string)
		value, isText := text.(string)
		if !ok || !isText {
			return fmt.Errorf("store: redis answered %T and %T for a text", field, text)
		}
		fields[name] = value
		return nil
	}
	switch all := v.(type) {
	case map[any]any:
		for field, text := range all {
			if err := add(field, text); err != nil {
				return err
			}
		}
		return nil
	case []any:
		if len(all)%2 != 0 {
			break
		}
		for i := 0; i < len(all); i += 2 {
			if err := add(all[i], all[i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("store: redis answered %T for texts", v)
}
