package wire

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Faults is what one direction does to frames. The zero value does nothing. As text, one command for each:
//
//	delay 25ms      from end to end        jitter 5ms      more or less, in order
//	loss 1%         of the frames          duplicate 1%    come twice
//	reorder 1%      are overtaken          corrupt 0.1%    have one wrong bit
//	rate 50mbit     and behind it          queue 64kb      waits; else 50 ms
//	mtu 600         larger packets vanish  drop udp tcp    vanish: tcp udp icmp ip arp other all
//	pass            end of drop            clear           end of all
type Faults struct {
	Delay, Jitter                     time.Duration
	Loss, Duplicate, Reorder, Corrupt Share
	Rate                              int64 // bits a second, of frames without preamble; 0: no limit
	Queue                             int   // bytes; 0: DefaultQueue
	MTU                               int   // bytes of an IP packet; 0: no limit
	Drop                              Kind
}

// A Share is in millionths.
type Share uint32

const whole = 1_000_000

// A Kind is a set of kinds of frames.
type Kind uint8

// The kinds.
const (
	TCP Kind = 1 << iota
	UDP
	ICMP
	OtherIP
	ARP
	Other
	IP  = TCP | UDP | ICMP | OtherIP
	All = IP | ARP | Other
)

const (
	maxTime  = time.Minute
	maxRate  = 100_000_000_000
	maxBytes = 1 << 30
)

// A namedKind is a word for kinds; the larger sets come first.
type namedKind struct {
	name string
	kind Kind
}

var kinds = []namedKind{{"all", All}, {"ip", IP}, {"tcp", TCP}, {"udp", UDP}, {"icmp", ICMP}, {"otherip", OtherIP}, {"arp", ARP}, {"other", Other}}

// Set does what a command says. After an error f is as it was.
func (f *Faults) Set(command string) (err error) {
	words := strings.Fields(command)
	if len(words) == 0 {
		return fmt.Errorf("an empty command: use one as %q", "delay 25ms")
	}
	switch verb, args := words[0], words[1:]; {
	case verb == "drop" && len(args) > 0:
		err = f.setDrop(args)
	case verb == "pass" && len(args) == 0:
		f.Drop = 0
	case verb == "clear" && len(args) == 0:
		*f = Faults{}
	case len(args) == 1:
		err = f.setValue(verb, args[0])
	default:
		err = errUnknown
	}
	if err != nil {
		return fmt.Errorf("%q: %w", command, err)
	}
	return nil
}

var errUnknown = errors.New("use delay, jitter, loss, duplicate, reorder, corrupt, rate, queue or mtu with a value, drop with kinds, pass or clear")

func (f *Faults) setDrop(names []string) error {
	var all Kind
	for _, name := range names {
		i := slices.IndexFunc(kinds, func(k namedKind) bool { return k.name == name })
		if i < 0 {
			return fmt.Errorf("there is no kind %q: use all, ip, tcp, udp, icmp, otherip, arp or other", name)
		}
		all |= kinds[i].kind
	}
	f.Drop = all
	return nil
}

func (f *Faults) setValue(verb, text string) error {
	switch verb {
	case "delay":
		return parse(&f.Delay, text, parseTime)
	case "jitter":
		return parse(&f.Jitter, text, parseTime)
	case "loss":
		return parse(&f.Loss, text, parseShare)
	case "duplicate":
		return parse(&f.Duplicate, text, parseShare)
	case "reorder":
		return parse(&f.Reorder, text, parseShare)
	case "corrupt":
		return parse(&f.Corrupt, text, parseShare)
	case "rate":
		return parse(&f.Rate, text, parseRate)
	case "queue":
		return parse(&f.Queue, text, parseBytes)
	case "mtu":
		return parse(&f.MTU, text, parseBytes)
	}
	return errUnknown
}

// parse changes a value only if the text is right.
func parse[T any](value *T, text string, from func(string) (T, error)) error {
	v, err := from(text)
	if err == nil {
		*value = v
	}
	return err
}

func parseTime(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > maxTime {
		return 0, fmt.Errorf("use a time up to %s, as 25ms", maxTime)
	}
	return d, nil
}

func parseShare(text string) (Share, error) {
	number, found := strings.CutSuffix(text, "%")
	x, err := strconv.ParseFloat(number, 64)
	if err != nil || !found || !(x >= 0 && x <= 100) {
		return 0, fmt.Errorf("use a percentage, as 0.5%%")
	}
	return Share(math.Round(x * whole / 100)), nil
}

func parseRate(text string) (int64, error) {
	return parseUnit(text, maxRate, "a rate, as 50mbit or 0", rateUnits)
}

func parseBytes(text string) (int, error) {
	n, err := parseUnit(text, maxBytes, "bytes, as 600 or 64kb", byteUnits)
	return int(n), err
}

// A unit of numbers; the larger ones come first.
type unit struct {
	name string
	is   int64
}

var (
	rateUnits = []unit{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}
	byteUnits = []unit{{"mb", 1 << 20}, {"kb", 1 << 10}}
)

func parseUnit(text string, limit int64, use string, units []unit) (int64, error) {
	times := int64(1)
	for _, u := range units {
		if number, ok := strings.CutSuffix(text, u.name); ok {
			text, times = number, u.is
			break
		}
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil || !(x >= 0 && x*float64(times) <= float64(limit)) {
		return 0, fmt.Errorf("use %s", use)
	}
	return int64(math.Round(x * float64(times))), nil
}

func formatUnit(n int64, units []unit) string {
	for _, u := range units {
		if n%u.is == 0 {
			return strconv.FormatInt(n/u.is, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// String returns what is not zero, as Wire.Set takes it.
func (f Faults) String() string {
	var all []string
	add := func(is bool, verb, value string) {
		if is {
			all = append(all, verb+" "+value)
		}
	}
	share := func(s Share) string { return strconv.FormatFloat(float64(s)*100/whole, 'f', -1, 64) + "%" }
	add(f.Delay > 0, "delay", f.Delay.String())
	add(f.Jitter > 0, "jitter", f.Jitter.String())
	add(f.Loss > 0, "loss", share(f.Loss))
	add(f.Duplicate > 0, "duplicate", share(f.Duplicate))
	add(f.Reorder > 0, "reorder", share(f.Reorder))
	add(f.Corrupt > 0, "corrupt", share(f.Corrupt))
	add(f.Rate > 0, "rate", formatUnit(f.Rate, rateUnits))
	add(f.Queue > 0, "queue", formatUnit(int64(f.Queue), byteUnits))
	add(f.MTU > 0, "mtu", formatUnit(int64(f.MTU), nil))
	add(f.Drop > 0, "drop", f.Drop.String())
	return strings.Join(all, ", ")
}

func (k Kind) String() string {
	var all []string
	for _, one := range kinds {
		if k&one.kind == one.kind {
			all = append(all, one.name)
			k &^= one.kind
		}
	}
	return strings.Join(all, " ")
}
