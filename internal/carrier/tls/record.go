package tls

import (
	"crypto/cipher"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"ferry/internal/carrier"
)

// Lengths in bytes (RFC 8446, section 5).
const (
	recordHeaderLen = 5
	tagLen          = 16
	maxPlain        = 16 << 10       // of data in a record
	maxBody         = maxPlain + 256 // of a record behind its header
)

// Types of records.
const (
	typeAlert     = 21
	typeHandshake = 22
	typeData      = 23
)

const (
	// keyLife is how many records a key is used for: less than the 2^24.5 that AES-GCM stands.
	keyLife = 1 << 24
	// keyLifeMin is how many records we want to see before the other end changes its key, which costs
	// us more than a record does.
	keyLifeMin = 1 << 16
)

// Reasons to end a connection.
var (
	ErrRecord = errors.New("TLS record is malformed or not genuine")
	ErrAlert  = errors.New("TLS alert")
)

// keyUpdate tells that the next record has the next key: RFC 8446, section 4.6.3. The last byte would
// ask the other end to do the same; ours counts for itself, but another implementation may ask.
const (
	keyUpdate      = "\x18\x00\x00\x01\x00"
	keyUpdateAsked = "\x18\x00\x00\x01\x01"
)

// Records are the two directions of a connection. One goroutine at a time may seal, one may open.
type Records struct {
	in, out direction
	asked   atomic.Bool // the other end wants us to change our key
}

var _ carrier.Cipher = (*Records)(nil)

// A direction is the state of one sender.
type direction struct {
	suite  *carrier.Suite
	secret []byte
	aead   cipher.AEAD
	iv     [12]byte
	nonce  [12]byte // in use during a call
	seq    uint64   // records under this key so far
}

// newRecords returns the records of who reads under one secret and writes under the other.
func newRecords(id uint16, in, out []byte) (*Records, error) {
	s := carrier.SuiteOf(id)
	if s == nil || len(in) != s.Hash().Size() || len(out) != s.Hash().Size() {
		return nil, fmt.Errorf("no keys for cipher suite %#04x", id)
	}
	r := &Records{in: direction{suite: s, secret: in}, out: direction{suite: s, secret: out}}
	return r, errors.Join(r.in.rekey(), r.out.rekey())
}

// rekey makes key and IV of the secret: RFC 8446, section 7.3.
func (d *direction) rekey() error {
	key, err := d.suite.Expand(d.secret, "key", d.suite.KeyLen)
	if err != nil {
		return err
	}
	iv, err := d.suite.Expand(d.secret, "iv", len(d.iv))
	if err != nil {
		return err
	}
	d.iv, d.seq = [12]byte(iv), 0
	d.aead, err = d.suite.AEAD(key)
	return err
}

// next replaces the secret by the one that follows: RFC 8446, section 7.2.
func (d *direction) next() error {
	secret, err := d.suite.Expand(d.secret, "traffic upd", d.suite.Hash().Size())
	if err != nil {
		return err
	}
	d.secret = secret
	return d.rekey()
}

// step sets the nonce of the next record: RFC 8446, section 5.3.
func (d *direction) step() []byte {
	d.nonce = d.iv
	binary.BigEndian.PutUint64(d.nonce[4:], binary.BigEndian.Uint64(d.nonce[4:])^d.seq)
	d.seq++
	return d.nonce[:]
}

// Seal implements carrier.Cipher.
func (r *Records) Seal(dst, b []byte) ([]byte, error) {
	d := &r.out
	for len(b) > 0 {
		if d.seq >= keyLife || r.asked.CompareAndSwap(true, false) {
			dst = d.seal(dst, []byte(keyUpdate), typeHandshake)
			if err := d.next(); err != nil {
				return dst, err
			}
		}
		n := min(len(b), maxPlain)
		dst = d.seal(dst, b[:n], typeData)
		b = b[n:]
	}
	return dst, nil
}

func (d *direction) seal(dst, b []byte, kind byte) []byte {
	header := len(dst)
	body := len(b) + 1 + tagLen
	dst = append(dst, typeData, 3, 3, byte(body>>8), byte(body))
	start := len(dst)
	dst = append(append(dst, b...), kind)
	return d.aead.Seal(dst[:start], d.step(), dst[start:], dst[header:start])
}

// bodyLen returns the length of a record behind its header.
func bodyLen(header []byte) int { return int(binary.BigEndian.Uint16(header[3:])) }

// Open implements carrier.Cipher. What it appends to dst, for a moment the padding and the type too, is
// shorter than the record.
func (r *Records) Open(dst, sealed []byte) ([]byte, int, error) {
	if len(sealed) < recordHeaderLen {
		return dst, 0, nil
	}
	n := bodyLen(sealed)
	if sealed[0] != typeData || n <= tagLen || n > maxBody {
		return dst, 0, ErrRecord
	}
	n += recordHeaderLen
	if len(sealed) < n {
		return dst, 0, nil
	}
	d := &r.in
	plain, err := d.aead.Open(dst, d.step(), sealed[recordHeaderLen:n], sealed[:recordHeaderLen])
	if err != nil {
		return dst, 0, ErrRecord
	}
	start, end := len(dst), len(plain)
	for end > start && plain[end-1] == 0 { // padding
		end--
	}
	if end == start || end-start > maxPlain+1 {
		return dst, 0, ErrRecord
	}
	end--
	if kind := plain[end]; kind != typeData {
		return dst, n, r.control(kind, string(plain[start:end]))
	}
	return plain[:end], n, nil
}

// control treats a record without data.
func (r *Records) control(kind byte, b string) error {
	switch {
	case kind == typeHandshake && (b == keyUpdate || b == keyUpdateAsked) && r.in.seq > keyLifeMin:
		if b == keyUpdateAsked {
			r.asked.Store(true)
		}
		return r.in.next()
	case kind == typeAlert && len(b) == 2 && b[1] == 0: // close_notify
		return io.EOF
	case kind == typeAlert && len(b) == 2:
		return fmt.Errorf("%w: %w", ErrAlert, tls.AlertError(b[1]))
	}
	return ErrRecord
}
