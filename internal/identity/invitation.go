package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"ferry/internal/proto"
)

// NewSecret makes the secret of an invitation. It has 128 bits, so that nobody guesses it.
func NewSecret() (s proto.Secret) {
	_, _ = rand.Read(s[:]) // never fails: crypto/rand
	return s
}

// An Invitation is what a device needs to join: one string, which its owner carries to it.
//
//	ferry1-BASE64URL     [pin 32][secret 16][servers: text, separated by spaces][check 4]
//
// check is the beginning of SHA-256 of what stands before it: it finds what was lost in copying.
type Invitation struct {
	Servers []string // where the gateway is, as vpncli -s takes it; at least one
	Gateway Pin
	Secret  proto.Secret
}

const (
	invitationPrefix = "ferry1-"
	maxInvitation    = 1024 // bytes, decoded; a QR code holds 1,273 characters in its largest size with good correction
	checkLen         = 4
)

// ErrInvitation is returned for what is not a whole invitation.
var ErrInvitation = errors.New("this is not a whole invitation: copy the line that 'vpnsrv invite' printed, all of it")

// String returns the invitation for its owner's eyes: it holds the secret.
func (i Invitation) String() string {
	b := append(i.Gateway[:], i.Secret[:]...)
	b = append(b, strings.Join(i.Servers, " ")...)
	return invitationPrefix + base64.RawURLEncoding.EncodeToString(append(b, check(b)...))
}

func check(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:checkLen]
}

// ParseInvitation reads what String writes, with white space around it.
func ParseInvitation(s string) (Invitation, error) {
	var i Invitation
	text, ok := strings.CutPrefix(strings.TrimSpace(s), invitationPrefix)
	if !ok || len(text) > base64.RawURLEncoding.EncodedLen(maxInvitation) {
		return i, ErrInvitation
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") || len(b) < len(i.Gateway)+len(i.Secret)+checkLen {
		return i, ErrInvitation
	}
	b, sum := b[:len(b)-checkLen], b[len(b)-checkLen:]
	if string(check(b)) != string(sum) {
		return i, ErrInvitation
	}
	i.Gateway, b = Pin(b), b[len(i.Gateway):]
	i.Secret, b = proto.Secret(b), b[len(i.Secret):]
	i.Servers = strings.Fields(string(b))
	if strings.Join(i.Servers, " ") != string(b) || len(i.Servers) == 0 {
		return i, fmt.Errorf("%w (it names no gateway)", ErrInvitation)
	}
	return i, nil
}
