package ingress

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/wire"
)

const forged = "Authentication-Results: mx.example.net;\r\n\tdkim=pass\r\n"

func TestAHeaderSectionIsGatheredUpToAMebibyteHoweverLargeTheWindow(t *testing.T) {
	c := judge(t, info, &hop{}, false, func(cfg *Config, _ *wire.Config) { cfg.Message.HoldWindow = 16 << 20 })
	fields := func(n int) string { return strings.Repeat("X-Filler: "+strings.Repeat("y", 60)+"\r\n", n/72) }
	c.send("a@b.example", from("b.example", fields(900<<10))+"\r\nbody\r\n", "250", "info@example.com")
	c.send("a@b.example", from("b.example", fields(4<<20))+"\r\nbody\r\n", "554 5.6.0 The header section is too long",
		"info@example.com")
}
