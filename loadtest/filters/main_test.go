package filters_test

import (
	"os"
	"testing"

	"github.com/millrace/millrace/loadtest/world"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }
