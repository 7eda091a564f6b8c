package identity

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"ferry/internal/durable"
)

// A Public is the public half of a key.
type Public [ed25519.PublicKeySize]byte

// ParsePublic reads what Public.String writes.
func ParsePublic(s string) (Public, error) {
	var p Public
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(p) || len(s) != base64.StdEncoding.EncodedLen(len(p)) || Public(b) == p { // newlines are skipped there
		return p, fmt.Errorf("%q is not a key: 44 characters of base64 are expected, as 'vpncli key' prints them", s)
	}
	return Public(b), nil
}

// String returns the key in base64.
func (p Public) String() string { return base64.StdEncoding.EncodeToString(p[:]) }

// MarshalText implements encoding.TextMarshaler by String.
func (p Public) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler by ParsePublic.
func (p *Public) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePublic(string(b))
	return err
}

// Pin returns the hash of the key.
func (p Public) Pin() Pin {
	spki, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(p[:]))
	if err != nil {
		panic("identity: an Ed25519 key can not be encoded: " + err.Error())
	}
	return sha256.Sum256(spki)
}

// A Pin stands for a public key: SHA-256 of its SubjectPublicKeyInfo (RFC 7469, section 2.4).
type Pin [sha256.Size]byte

const pinPrefix = "SHA256:"

// ParsePin reads what Pin.String writes.
func ParsePin(s string) (Pin, error) {
	var p Pin
	text, ok := strings.CutPrefix(s, pinPrefix)
	b, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(b) != len(p) || len(text) != base64.RawStdEncoding.EncodedLen(len(p)) || Pin(b) == p {
		return p, fmt.Errorf("%q is not a fingerprint: SHA256: and 43 characters of base64 are expected", s)
	}
	return Pin(b), nil
}

// String returns the pin as people compare it; ssh-keygen -l writes hashes in the same form.
func (p Pin) String() string { return pinPrefix + base64.RawStdEncoding.EncodeToString(p[:]) }

// MarshalText implements encoding.TextMarshaler by String.
func (p Pin) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler by ParsePin.
func (p *Pin) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePin(string(b))
	return err
}

// A Key is an identity. The zero value is none.
type Key struct{ private ed25519.PrivateKey }

// NewKey makes a key.
func NewKey() Key {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic("identity: " + err.Error()) // crypto/rand never fails
	}
	return Key{private}
}

// String keeps the secret half out of logs.
func (k Key) String() string {
	if k.IsZero() {
		return "none"
	}
	return "the key of " + k.Public().String()
}

// IsZero reports whether k is none.
func (k Key) IsZero() bool { return k.private == nil }

// Public returns the public half.
func (k Key) Public() Public { return Public(k.private.Public().(ed25519.PublicKey)) }

// Signer returns what signs with the key, for protocols that prove it in other ways than TLS.
func (k Key) Signer() crypto.Signer { return k.private }

const pemType = "PRIVATE KEY" // PKCS #8, RFC 7468

// Save writes the key to a new file that only its owner may read. It does not replace a file: a key that
// is lost is an identity that is lost.
func (k Key) Save(path string) error {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return fmt.Errorf("save key: %w", err)
	}
	err = durable.Create(path, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}))
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("save key: %s is there already: remove it first, if nobody needs that identity any more: %w", path, err)
	}
	if err != nil {
		return fmt.Errorf("save key: %w", err)
	}
	return nil
}

// LoadKey reads what Save wrote. A file that others may read is refused: its key may be theirs, too.
func LoadKey(path string) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("load key: %w", err)
	}
	defer f.Close()
	if err := madeByOwner(f); err != nil {
		return Key{}, fmt.Errorf("load key: %w", err)
	}
	return ReadKey(f)
}

// madeByOwner says what is wrong if root is about to take a key that somebody has put into a directory which is not
// his: a process that serves strangers can make files in its state directory.
func madeByOwner(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	dir, err := os.Stat(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	owner, above := info.Sys().(*syscall.Stat_t).Uid, dir.Sys().(*syscall.Stat_t).Uid
	if os.Geteuid() == 0 && owner != 0 && owner != above {
		return fmt.Errorf("%s was made by user %d, whose directory it is not: if it is the right one, chown it to root", f.Name(), owner)
	}
	return nil
}

// ReadKey is LoadKey for a file that was opened.
func ReadKey(f *os.File) (Key, error) {
	path := f.Name()
	info, err := f.Stat()
	if err != nil {
		return Key{}, fmt.Errorf("load key: %w", err)
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return Key{}, fmt.Errorf("load key: %s has mode %s, so that others may read it: chmod 600 %s, or make a new key", path, mode, path)
	}
	b := make([]byte, 1024) // a key has 119
	n, err := f.Read(b)
	if err != nil {
		return Key{}, fmt.Errorf("load key: %s: %w", path, err)
	}
	k, err := parseKey(b[:n])
	if err != nil {
		return Key{}, fmt.Errorf("load key: %s: %w", path, err)
	}
	return k, nil
}

func parseKey(b []byte) (Key, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemType {
		return Key{}, errors.New("this is no private key in PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("this is no private key: %w", err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("this is a key of another kind (%T), not Ed25519", parsed)
	}
	return Key{private}, nil
}
