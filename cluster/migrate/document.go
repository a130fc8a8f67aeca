package migrate

// A Document is a text with its name: a file, or the path of the API that it is the answer of.
type Document struct {
	Name string
	Text []byte
}

// ReadDocuments reads files.
func ReadDocuments(names []string) (all []Document, err error) {
	for _, name := range names {
		text, err := readOctets(name)
		if err != nil {
			return nil, err
		}
		all = append(all, Document{name, text})
	}
	return all, nil
}
