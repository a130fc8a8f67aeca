package wire

// hasMasks reports whether this processor makes masks: each arm64 has NEON.
const hasMasks = true

// masksNEON is masks.
//
//go:noescape
func masksNEON(p *byte, blocks int, m *[maxBlocks]lineMask)

// masks finds the CRs and LFs of blocks of 64 octets from p on, one block at least and maxBlocks at most.
func masks(p *byte, blocks int, m *[maxBlocks]lineMask) { masksNEON(p, blocks, m) }
