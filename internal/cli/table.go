package cli

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Tables are for people; scripts take --json. The rules are:
//
//   - A column of numbers is aligned at its right side, all others at their left.
//   - What stands for nothing is "-".
//   - Colours are for terminals (and not where NO_COLOR is set); they say nothing that the words do not.
//   - Characters that a terminal would obey are not passed on: some words come from others.

// Bytes is a number of bytes.
type Bytes uint64

// String writes b with a unit and three digits, as 1.25 MiB.
func (b Bytes) String() string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(b), 0
	for ; v >= 999.5 && i < len(units)-1; i++ {
		v /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", uint64(b))
	}
	digits := 2
	switch {
	case v >= 99.95:
		digits = 0
	case v >= 9.995:
		digits = 1
	}
	return fmt.Sprintf("%.*f %s", digits, v, units[i])
}

// Age writes how long ago t was, in its two largest units; "-" for the zero time.
func Age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(time.Since(t), 0)
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd %02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh %02dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm %02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// Counts writes counters by their names, the largest first.
func Counts(n map[string]uint64) string {
	names := slices.SortedFunc(maps.Keys(n), func(a, b string) int {
		if n[a] != n[b] {
			if n[a] > n[b] {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %d", name, n[name])
	}
	return strings.Join(names, ", ")
}

// Join writes values behind each other.
func Join[T fmt.Stringer](all []T) string {
	texts := make([]string, len(all))
	for i, v := range all {
		texts[i] = v.String()
	}
	return strings.Join(texts, ", ")
}

// Good, Fair and Bad are words in green, yellow and red.
type (
	Good string
	Fair string
	Bad  string
)

const (
	bold   = "\x1b[1m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	plain  = "\x1b[0m"
)

// Table writes rows of cells under a head.
func Table(w io.Writer, head []string, rows [][]any) error {
	colours := IsTerminal(w)
	widths, right := make([]int, len(head)), make([]bool, len(head))
	texts := make([][]string, len(rows))
	for c, h := range head {
		widths[c], right[c] = utf8.RuneCountInString(h), len(rows) > 0
	}
	for r, row := range rows {
		texts[r] = make([]string, len(row))
		for c, cell := range row {
			texts[r][c] = textOf(cell)
			widths[c] = max(widths[c], utf8.RuneCountInString(texts[r][c]))
			right[c] = right[c] && isNumber(cell)
		}
	}
	var b strings.Builder
	line := func(texts []string, colour func(int) string) {
		var l strings.Builder
		for c, text := range texts {
			if c > 0 {
				l.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[c]-utf8.RuneCountInString(text))
			if code := colour(c); colours && code != "" {
				text = code + text + plain
			}
			if right[c] {
				l.WriteString(pad + text)
			} else {
				l.WriteString(text + pad)
			}
		}
		b.WriteString(strings.TrimRight(l.String(), " ") + "\n")
	}
	if slices.ContainsFunc(head, func(h string) bool { return h != "" }) {
		line(head, func(int) string { return bold })
	}
	for r, row := range rows {
		line(texts[r], func(c int) string { return colourOf(row[c]) })
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Fields are names and values, one pair a line.
type Fields [][]any

// Add adds a pair, unless the value says nothing.
func (f *Fields) Add(name string, value any) {
	if textOf(value) != "-" {
		*f = append(*f, []any{name, value})
	}
}

// Write writes all pairs.
func (f Fields) Write(w io.Writer) error { return Table(w, []string{"", ""}, f) }

func isNumber(cell any) bool {
	switch cell.(type) {
	case int, uint64, Bytes:
		return true
	}
	return false
}

func colourOf(cell any) string {
	switch cell.(type) {
	case Good:
		return green
	case Fair:
		return yellow
	case Bad:
		return red
	}
	return ""
}

func textOf(cell any) string {
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, fmt.Sprint(cell))
	if text == "" {
		return "-"
	}
	return text
}

// IsTerminal tells whether a person reads what is written to w, and colours and moving cursors are welcome.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
