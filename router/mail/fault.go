package mail

import "strings"

// A FieldError says which field of a Config is wrong and why. Field is the path within that Config, such as
// "limits.line", with an index in brackets for a list.
type FieldError struct {
	Field  string
	Reason string
}

// Error returns the field and the reason.
func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// Faults are all fields of a Config that are wrong, as one error.
type Faults []*FieldError

// Add adds a fault.
func (f *Faults) Add(field, reason string) {
	*f = append(*f, &FieldError{Field: field, Reason: reason})
}

// AddIf adds a fault if something is wrong.
func (f *Faults) AddIf(wrong bool, field, reason string) {
	if wrong {
		f.Add(field, reason)
	}
}

// Err returns the faults as an error, nil if there are none.
func (f Faults) Err() error {
	if len(f) == 0 {
		return nil // and no error that is not nil and holds none
	}
	return f
}

// Error returns all of them.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, e := range f {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "; ")
}

// Unwrap returns each as an error.
func (f Faults) Unwrap() []error {
	all := make([]error, len(f))
	for i, e := range f {
		all[i] = e
	}
	return all
}
