package account

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/leaf/atomicfile"
)

// The names of the lists that are kept beside the rules.
const (
	tokensName       = "tokens"
	destinationsName = "destinations"
	auditName        = "audit"
)

// listMagic begins the text of each list. Its name, the number of its version and the SHA-256 of what follows are the
// rest of the first line.
const listMagic = "millrace 1"

// encode returns the text of a list: a line that tells whether all of it is there, and a line for each record.
func encode[T any](name string, number uint64, list []T) ([]byte, error) {
	var body []byte
	for i := range list {
		record, err := json.Marshal(&list[i])
		if err != nil {
			return nil, fmt.Errorf("account: %s: %w", name, err)
		}
		body = append(append(body, record...), '\n')
	}
	return append([]byte(header(name, number, body)), body...), nil
}

func header(name string, number uint64, body []byte) string {
	sum := sha256.Sum256(body)
	return fmt.Sprintf("%s %s %d %s\n", listMagic, name, number, hex.EncodeToString(sum[:]))
}

var errList = errors.New("it is not what was kept here, or not all of it")

// decode reverses encode. It returns an error for anything that encode does not return.
func decode[T any](name string, text []byte) (number uint64, list []T, err error) {
	first, body, _ := strings.Cut(string(text), "\n")
	digits, _, _ := strings.Cut(strings.TrimPrefix(first, listMagic+" "+name+" "), " ")
	if number, err = strconv.ParseUint(digits, 10, 64); err != nil {
		return 0, nil, errList
	}
	if header(name, number, []byte(body)) != first+"\n" {
		return 0, nil, errList
	}
	for line := range strings.Lines(body) {
		var record T
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields() // of a later version, which would be lost
		if err := d.Decode(&record); err != nil {
			return 0, nil, fmt.Errorf("it is of a later version: %w", err)
		}
		list = append(list, record)
	}
	return number, list, nil
}

// load reads the lists of a folder. One that is not there is empty, and one that cannot be read is an error.
func (k *kept) load(folder string) error {
	return errors.Join(
		loadList(folder, tokensName, &k.number, &k.tokens),
		loadList(folder, destinationsName, &k.number, &k.destinations),
		loadList(folder, auditName, &k.number, &k.audit),
	)
}

func loadList[T any](folder, name string, number *uint64, list *[]T) error {
	file := filepath.Join(folder, name)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	n, records, err := decode[T](name, text)
	if err != nil {
		return fmt.Errorf("%s: %w: restore it, or remove it to begin without", file, err)
	}
	*number, *list = max(*number, n), records
	return nil
}

// save writes those lists to a folder that are not as in old.
func (k *kept) save(folder string, old *kept) error {
	return errors.Join(
		saveList(folder, tokensName, k.number, k.tokens, old.tokens),
		saveList(folder, destinationsName, k.number, k.destinations, old.destinations),
		saveList(folder, auditName, k.number, k.audit, old.audit),
	)
}

func saveList[T any](folder, name string, number uint64, list, old []T) error {
	text, err := encode(name, number, list)
	if err != nil {
		return err
	}
	before, err := encode(name, number, old)
	if err != nil || bytes.Equal(text, before) {
		return err
	}
	return atomicfile.Write(filepath.Join(folder, name), text)
}
