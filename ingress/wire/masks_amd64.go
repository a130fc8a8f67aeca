package wire

import "golang.org/x/sys/cpu"

// hasMasks reports whether this processor makes masks. SSE2, which each amd64 has, is what the search for one octet of
// the standard library does without them.
var hasMasks = cpu.X86.HasAVX2

// masksAVX2 is masks. It wants AVX2.
//
//go:noescape
func masksAVX2(p *byte, blocks int, m *[maxBlocks]lineMask)

// masks finds the CRs and LFs of blocks of 64 octets from p on, one block at least and maxBlocks at most.
func masks(p *byte, blocks int, m *[maxBlocks]lineMask) { masksAVX2(p, blocks, m) }
