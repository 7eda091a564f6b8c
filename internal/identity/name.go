package identity

import (
	"fmt"
	"regexp"
)

var name = regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`)

// ParseName checks the name of a device: what fits into a hello frame, a log line and an argument.
func ParseName(s string) (string, error) {
	if !name.MatchString(s) {
		return s, fmt.Errorf("%q is not a name: use 1 to 63 letters, digits, '-', '_' and '.'", s)
	}
	return s, nil
}
