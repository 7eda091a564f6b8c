package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// A Capture asks for packets that pass the gateway. Each field is a parameter of the request.
type Capture struct {
	Peer    string  // name of a device, address or number of a session; empty: all
	Filter  string  // as tcpdump has them; empty: all packets
	Snaplen uint64  // bytes of each packet; 0: all
	Packets uint64  // after which it ends; 0: none
	Bytes   uint64  // of the file, likewise
	Seconds float64 // likewise
}

// values are the parameters, by their names.
func (c *Capture) values() map[string]any {
	return map[string]any{"peer": &c.Peer, "filter": &c.Filter, "snaplen": &c.Snaplen, "packets": &c.Packets, "bytes": &c.Bytes, "seconds": &c.Seconds}
}

// maxSeconds is the longest that a capture can be told to take.
const maxSeconds = 365 * 24 * 3600

// ParseCapture reads the parameters of a request. A name that is not known is an error: it would be a limit that is none.
func ParseCapture(q url.Values) (c Capture, err error) {
	all := c.values()
	for name, texts := range q {
		text := texts[0]
		switch v := all[name].(type) {
		case *string:
			*v = text
		case *uint64:
			*v, err = strconv.ParseUint(text, 10, 64)
		case *float64:
			if *v, err = strconv.ParseFloat(text, 64); err == nil && !(*v >= 0 && *v <= maxSeconds) {
				err = strconv.ErrRange
			}
		default:
			err = errors.New("there is no such parameter: peer, filter, snaplen, packets, bytes and seconds are")
		}
		if err != nil {
			return c, fmt.Errorf("capture: %s=%q: %w", name, text, err)
		}
	}
	return c, nil
}

// query is the other way round.
func (c Capture) query() string {
	q := url.Values{}
	for name, v := range c.values() {
		switch v := v.(type) {
		case *string:
			if *v != "" {
				q.Set(name, *v)
			}
		case *uint64:
			if *v > 0 {
				q.Set(name, strconv.FormatUint(*v, 10))
			}
		case *float64:
			if *v > 0 {
				q.Set(name, strconv.FormatFloat(*v, 'g', -1, 64))
			}
		}
	}
	return q.Encode()
}

// Headers of an answer to Capture. The last two are trailers: they come behind the file, when the capture has ended by a limit or by its number.
const (
	headerCapture  = "Ferry-Capture"  // number
	headerCaptured = "Ferry-Captured" // packets
	headerDropped  = "Ferry-Dropped"  // packets that found no room in the capture
)

// stallTime is how long who reads a capture may take nothing.
const stallTime = time.Minute

// Send answers with the file of a capture that has a number. run is given what writes; it returns how many packets it captured and dropped. The
// connection ends with an error of run.
func Send(w http.ResponseWriter, number uint64, run func(write func([]byte) error) (captured, dropped uint64, err error)) {
	h := w.Header()
	h.Set("Content-Type", "application/vnd.tcpdump.pcap")
	h.Set("Content-Disposition", `attachment; filename="ferry.pcap"`)
	h.Set("Cache-Control", "no-store")
	h.Set(headerCapture, strconv.FormatUint(number, 10))
	h.Set("Trailer", headerCaptured+", "+headerDropped)
	c := http.NewResponseController(w)
	captured, dropped, err := run(func(b []byte) error {
		if err := c.SetWriteDeadline(time.Now().Add(stallTime)); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		return c.Flush()
	})
	if err != nil {
		panic(http.ErrAbortHandler) // of net/http, for an answer that is incomplete
	}
	_ = c.SetWriteDeadline(time.Now().Add(timeout))
	h.Set(headerCaptured, strconv.FormatUint(captured, 10))
	h.Set(headerDropped, strconv.FormatUint(dropped, 10))
}

// A Recording is a capture that runs. Read returns its file, and io.EOF when it has ended.
type Recording struct {
	c      *Client
	answer *http.Response
	number string
}

// Capture begins a capture, which goes on until its limits, End or Close, or until ctx is done.
func (c *Client) Capture(ctx context.Context, asked Capture) (*Recording, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+Host+"/v1/capture?"+asked.query(), nil)
	if err != nil {
		return nil, err
	}
	endless := c.http
	endless.Timeout = 0
	answer, err := endless.Do(r)
	if err != nil {
		return nil, c.explain(err)
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		return nil, refusal(answer)
	}
	return &Recording{c, answer, answer.Header.Get(headerCapture)}, nil
}

// Read implements io.Reader.
func (r *Recording) Read(b []byte) (int, error) { return r.answer.Body.Read(b) }

// End ends the capture. What the gateway has captured before is still to be read.
func (r *Recording) End(ctx context.Context) error {
	return r.c.call(ctx, http.MethodDelete, "/v1/capture/"+r.number, nil, nil)
}

// Counts returns how many packets were captured, and how many the capture had no room for. It is called after io.EOF.
func (r *Recording) Counts() (captured, dropped uint64, err error) {
	for name, n := range map[string]*uint64{headerCaptured: &captured, headerDropped: &dropped} {
		if *n, err = strconv.ParseUint(r.answer.Trailer.Get(name), 10, 64); err != nil {
			return 0, 0, fmt.Errorf("the gateway does not say how much it has captured: %w", err)
		}
	}
	return captured, dropped, nil
}

// Close gives up what was not read.
func (r *Recording) Close() error { return r.answer.Body.Close() }

var _ io.ReadCloser = (*Recording)(nil)
