// Package pcap writes and reads files of captured packets, as tcpdump and wireshark do (https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html).
//
//	header 24   magic 4, version 2 2, zone 4, accuracy 4, snaplen 4, link type 4
//	record 16   seconds 4, microseconds 4, captured 4, length 4, then the bytes that were captured
//
// The byte order of the numbers is that of the magic. A Reader takes nothing but what is written here as IP.
package pcap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Sizes in bytes.
const (
	HeaderLen       = 24
	RecordHeaderLen = 16
	// MaxSnaplen is the longest that a packet can be.
	MaxSnaplen = 65535
)

const (
	magic = 0xa1b2c3d4 // times are in microseconds
	major = 2
	minor = 4
)

// A Form is one in which files are written.
type Form struct {
	order binary.AppendByteOrder
	link  uint32 // LINKTYPE
}

// The forms.
var (
	// IP has packets that begin with their IP header (LINKTYPE_RAW).
	IP = Form{binary.LittleEndian, 101}
	// Ethernet has frames (LINKTYPE_ETHERNET), and numbers as vpnguin writes them.
	Ethernet = Form{binary.BigEndian, 1}
)

// AppendHeader appends that of a file with packets of up to snaplen bytes.
func (f Form) AppendHeader(b []byte, snaplen int) []byte {
	b = f.order.AppendUint32(b, magic)
	b = f.order.AppendUint16(b, major)
	b = f.order.AppendUint16(b, minor)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = f.order.AppendUint32(b, uint32(snaplen))
	return f.order.AppendUint32(b, f.link)
}

// AppendRecord appends a packet that was length bytes long, of which data was captured.
func (f Form) AppendRecord(b []byte, t time.Time, data []byte, length int) []byte {
	return append(f.AppendRecordHeader(b, t, len(data), length), data...)
}

// AppendRecordHeader appends what stands before the captured bytes of a packet that was length bytes long.
func (f Form) AppendRecordHeader(b []byte, t time.Time, captured, length int) []byte {
	b = f.order.AppendUint32(b, uint32(t.Unix()))
	b = f.order.AppendUint32(b, uint32(t.Nanosecond()/1000))
	b = f.order.AppendUint32(b, uint32(captured))
	return f.order.AppendUint32(b, uint32(length))
}

// ErrFormat is that of bytes which are no file of this kind.
var ErrFormat = errors.New("no capture of IP packets")

// A Packet is one record.
type Packet struct {
	Time   time.Time
	Data   []byte // what was captured; valid until the next one is read
	Length int    // of the packet, bytes
}

// A Reader reads records.
type Reader struct {
	r   io.Reader
	buf [RecordHeaderLen + MaxSnaplen]byte
}

// NewReader reads the header.
func NewReader(from io.Reader) (*Reader, error) {
	r := &Reader{r: from}
	b := r.buf[:HeaderLen]
	if _, err := io.ReadFull(from, b); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(b) != magic || binary.LittleEndian.Uint32(b[20:]) != IP.link {
		return nil, ErrFormat
	}
	return r, nil
}

// Next returns the next packet; at the end io.EOF, and within a record io.ErrUnexpectedEOF.
func (r *Reader) Next() (p Packet, err error) {
	b := r.buf[:RecordHeaderLen]
	if _, err := io.ReadFull(r.r, b); err != nil {
		return p, err
	}
	n := binary.LittleEndian.Uint32(b[8:])
	if n > MaxSnaplen {
		return p, fmt.Errorf("%w: a packet of %d bytes", ErrFormat, n)
	}
	p.Time = time.Unix(int64(binary.LittleEndian.Uint32(b)), int64(binary.LittleEndian.Uint32(b[4:]))*1000)
	p.Length = int(binary.LittleEndian.Uint32(b[12:]))
	p.Data = r.buf[RecordHeaderLen:][:n]
	if _, err = io.ReadFull(r.r, p.Data); errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return p, err
}
