package identity

import (
	"fmt"
	"strings"
)

const nameLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

// ParseName checks the name of a device: what fits into a hello frame, a log line and an argument.
func ParseName(s string) (string, error) {
	if s == "" || len(s) > 63 || strings.ContainsFunc(s, notInName) {
		return s, fmt.Errorf("%q is not a name: use 1 to 63 letters, digits, '-', '_' and '.'", s)
	}
	return s, nil
}

func notInName(r rune) bool { return !strings.ContainsRune(nameLetters, r) }
