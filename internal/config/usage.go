package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/spf13/pflag"
)

// A UsageError is a fault of the command line, not of a file or of the host.
type UsageError struct{ Err error }

// Error implements error.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the fault itself.
func (e *UsageError) Unwrap() error { return e.Err }

// FlagError makes an error of the flag parser fit for its user: a *UsageError in one line that says
// what to do.
func FlagError(flags *pflag.FlagSet, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var names []string
		flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		err = fmt.Errorf("%w%s", err, didYouMean(unknown.GetSpecifiedName(), names, "--%s"))
	}
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		f := invalid.GetFlag()
		wanted := "a whole number"
		if f.Value.Type() == "bool" {
			wanted = "true or false"
		}
		err = fmt.Errorf("--%s: %q is not %s", f.Name, invalid.GetValue(), wanted)
	}
	return &UsageError{err}
}

// keyNames are the keys that keys, a pointer to a struct, takes from a file.
func keyNames(keys any) (names []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeOf(keys).Elem()) {
		if name := f.Tag.Get("toml"); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// didYouMean returns a hint in parentheses if one of names is close to wrong, and "" otherwise.
func didYouMean(wrong string, names []string, format string) string {
	best, least := "", 3 // edits; more than two and it is another word
	for _, name := range names {
		if d := distance(strings.ToLower(wrong), name); d < least && 2*d < len(name) {
			best, least = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean "+format+"?)", best)
}

// distance counts the letters to insert, delete or replace to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
