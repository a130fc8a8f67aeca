package rules

import (
	"iter"
	"os"
	"strings"
)

// A File is one rules file: its name in errors and routes, and its text.
type File struct{ Name, Text string }

// Read returns the files of paths, as Load reads them. It does not parse them. The error is that of reading.
func Read(paths []string) ([]File, error) {
	names, err := Names(paths)
	if err != nil {
		return nil, err
	}
	files := make([]File, 0, len(names))
	size := 0
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if size += len(text); size > maxText {
			return nil, errTooLong
		}
		files = append(files, File{name, string(text)})
	}
	return files, nil
}

// Make returns a Table of files that were read already. Its error is as that of Load.
func Make(files []File, cfg Config) (*Table, error) {
	if len(files) > maxFiles {
		return nil, tooMany(len(files))
	}
	b := newBuilder(cfg)
	size := 0
	for _, f := range files {
		size += min(len(f.Text), maxText-size)
	}
	b.text.Grow(size)
	for _, f := range files {
		if err := b.read(f.Name, strings.NewReader(f.Text)); err != nil {
			return nil, err
		}
	}
	return b.build()
}

// Files returns the names and the texts of the files that t was made of, in their order. The texts are parts of one
// string that t keeps anyway.
func (t *Table) Files() iter.Seq2[string, string] {
	return func(yield func(name, text string) bool) {
		start := 0
		for i, end := range t.ends {
			if !yield(t.files[i], t.text[start:end]) {
				return
			}
			start = end
		}
	}
}
