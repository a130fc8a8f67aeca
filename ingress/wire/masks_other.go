//go:build !amd64 && !arm64

package wire

// hasMasks reports whether this processor makes masks.
const hasMasks = false

// masks is never called where hasMasks is false.
func masks(*byte, int, *[maxBlocks]lineMask) {}
