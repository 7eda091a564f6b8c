package main

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A series is one figure in all runs; NaN where it was not measured.
type series []float64

func (s series) known() series {
	return slices.DeleteFunc(slices.Clone(s), math.IsNaN)
}

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// String is the median with the least and the greatest, or "-" if nothing was measured.
func (s series) String() string {
	switch s = s.known(); len(s) {
	case 0:
		return "-"
	case 1:
		return figure(s[0])
	}
	return fmt.Sprintf("%s (%s..%s)", figure(s.median()), figure(slices.Min(s)), figure(slices.Max(s)))
}

// over divides two series run by run.
func (s series) over(t series) (ratio series) {
	for i := range min(len(s), len(t)) {
		ratio = append(ratio, s[i]/t[i])
	}
	return ratio
}

// figure prints three digits, as many as such measurements are worth.
func figure(x float64) string {
	switch {
	case math.IsInf(x, 1):
		return "never"
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x >= 1 || x == 0:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3f", x)
}

// A line is one figure of all subjects, and what it should be. The same index of two series is the
// same run.
type line struct {
	what   string // with the unit
	short  string // for those who wait; empty: as what
	got    [subjects]series
	ratios bool // whether Ferry's figure divided by that of another says something
	bars   []bar
}

func (l *line) ratio(than subject) series { return l.got[ours].over(l.got[than]) }

// A bar is a limit that a line should keep.
type bar struct {
	text  string
	of    func(*line) series
	keeps func(float64) bool
}

func ofBare(atLeast float64) bar {
	return bar{fmt.Sprintf(">= %.2f of bare", atLeast), ratioTo(bare), func(x float64) bool { return x >= atLeast }}
}

func timesWireguard(atLeast float64) bar {
	return bar{fmt.Sprintf(">= %g x wireguard-go", atLeast), ratioTo(wireguardGo), func(x float64) bool { return x >= atLeast }}
}

// atMost is a limit for Ferry's own figure.
func atMost(limit float64, text string) bar {
	return bar{text, own, func(x float64) bool { return x <= limit }}
}

// below is a limit that Ferry's own figure must not reach.
func below(limit float64, text string) bar {
	return bar{text, own, func(x float64) bool { return x < limit }}
}

func own(l *line) series { return l.got[ours] }

func ratioTo(than subject) func(*line) series {
	return func(l *line) series { return l.ratio(than) }
}

// verdict says whether the median keeps the bar, and in how many runs it was so where they differ.
func (b bar) verdict(l *line) string {
	s := b.of(l).known()
	if len(s) == 0 {
		return "not measured"
	}
	met := 0
	for _, x := range s {
		if b.keeps(x) {
			met++
		}
	}
	answer := "NO"
	if b.keeps(s.median()) {
		answer = "yes"
	}
	if met > 0 && met < len(s) {
		answer += fmt.Sprintf(" (in %d of %d)", met, len(s))
	}
	return answer
}

// A layout says what a report shows of its lines.
type layout struct {
	title, maker string
	file         string // for the report, unless another one is named
	subjects     []subject
	ratios       bool
	targets      bool // stand in a table of their own before the other one
	explanation  string
	notes        []string // what a reader of the table could misunderstand
}

var measurements = layout{
	title: "Measurements", maker: "make bench", file: "bench/RESULTS.md", subjects: []subject{bare, ours, wireguardGo, gvproxy, sshForward}, ratios: true,
	explanation: "Figures are the median of the runs (least..greatest). What stands in one line was measured in turn within each " +
		"run; ratios were taken within a run, and their median is compared with the bar.",
	notes: []string{
		"UDP: the sender sends as fast as one thread can. On the bare link that thread also does the gateway's part of receiving, which a " +
			"tunnel does in other processes: bare is what one sender can deliver, not what the machine could.",
		"RSS includes the pages of the program file.",
	},
}

// columns are the names above cells.
func (y *layout) columns() []string {
	all := []string{"what"}
	for _, s := range y.subjects {
		all = append(all, subjectNames[s])
	}
	if y.ratios {
		all = append(all, "ferry is")
	}
	if y.targets {
		return all
	}
	return append(all, "bar", "met")
}

// cells are the columns of a line.
func (y *layout) cells(l *line) []string {
	var ratios, bars, kept []string
	if l.ratios {
		for _, than := range []subject{bare, wireguardGo, gvproxy, sshForward, former} {
			if r := l.ratio(than).known(); len(r) > 0 {
				ratios = append(ratios, fmt.Sprintf("%s x %s", r, subjectNames[than]))
			}
		}
	}
	for _, b := range l.bars {
		bars = append(bars, b.text)
		kept = append(kept, b.verdict(l))
	}
	join := func(s []string) string { return cmp.Or(strings.Join(s, "; "), "-") }
	all := []string{l.what}
	for _, s := range y.subjects {
		all = append(all, l.got[s].String())
	}
	if y.ratios {
		all = append(all, join(ratios))
	}
	if y.targets {
		return all
	}
	return append(all, join(bars), join(kept))
}

// targetCells are the columns of a target that a line has: what was measured, and the limits.
func (y *layout) targetCells(l *line) []string {
	var got, bars, kept []string
	for _, b := range l.bars {
		got = append(got, b.of(l).String())
		bars = append(bars, b.text)
		kept = append(kept, b.verdict(l))
	}
	return []string{l.what, strings.Join(bars, "; "), strings.Join(slices.Compact(got), "; "), strings.Join(kept, "; ")}
}

// A report is what was measured, on which machine.
type report struct {
	layout
	began    time.Time
	took     time.Duration
	machine  [][2]string
	lines    []*line
	failures []string // rows that could not be measured
}

// newReport describes the machine.
func (b *bench) newReport(y layout) *report {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	load, _ := os.ReadFile("/proc/loadavg")
	return &report{layout: y, began: time.Now(), machine: [][2]string{
		{"date", time.Now().UTC().Format("2006-01-02 15:04 MST")},
		{"commit", commit()},
		{"kernel", unix.ByteSliceToString(uts.Release[:]) + " " + unix.ByteSliceToString(uts.Machine[:])},
		{"CPU", cpuModel()},
		{"cores", fmt.Sprint(runtime.NumCPU())},
		{"load before", strings.Join(strings.Fields(string(load))[:min(3, len(strings.Fields(string(load))))], " ")},
		{"Go", runtime.Version()},
		{"wireguard-go", wireguardVersion(b.wireguard)},
		{"runs", fmt.Sprintf("%d", b.runs)},
	}}
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// cpuModel is what /proc/cpuinfo calls the processor; not all architectures do.
func cpuModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for text := range strings.Lines(string(info)) {
		key, value, _ := strings.Cut(text, ":")
		switch strings.TrimSpace(key) {
		case "model name", "Model", "cpu model", "uarch":
			return strings.TrimSpace(value)
		}
	}
	return "unknown, " + runtime.GOARCH
}

// text is the report for a terminal.
func (r *report) text() string {
	var s strings.Builder
	s.WriteString("\n")
	for _, m := range r.machine {
		fmt.Fprintf(&s, "%-16s %s\n", m[0], m[1])
	}
	s.WriteString("\n")
	for _, table := range r.tables() {
		writeTable(&s, table, "", "  ", "")
		s.WriteString("\n")
	}
	s.WriteString(r.explanation + "\n" + strings.Join(r.notes, "\n") + "\n")
	for _, f := range r.failures {
		fmt.Fprintf(&s, "\nNOT MEASURED: %s\n", f)
	}
	return s.String()
}

// markdown is the report for a file.
func (r *report) markdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "# %s\n\nWritten by `%s` in %s. %s\n\n", r.title, r.maker, r.took.Round(time.Second), r.explanation)
	for _, m := range r.machine {
		fmt.Fprintf(&s, "* %s: %s\n", m[0], m[1])
	}
	s.WriteString("\n")
	for _, table := range r.tables() {
		rule := slices.Repeat([]string{"---"}, len(table[0]))
		writeTable(&s, slices.Insert(table, 1, rule), "| ", " | ", " |")
		s.WriteString("\n")
	}
	s.WriteString("* " + strings.Join(r.notes, "\n* ") + "\n")
	for _, f := range r.failures {
		fmt.Fprintf(&s, "\nNot measured: %s\n", f)
	}
	return s.String()
}

// tables are that of the targets, if the layout has one, and that of all lines.
func (r *report) tables() (all [][][]string) {
	targets, whole := [][]string{{"what", "target", "ferry", "met"}}, [][]string{r.columns()}
	for _, l := range r.lines {
		if len(l.bars) > 0 {
			targets = append(targets, r.targetCells(l))
		}
		whole = append(whole, r.cells(l))
	}
	if r.layout.targets {
		all = append(all, targets)
	}
	return append(all, whole)
}

// writeTable aligns the columns.
func writeTable(s *strings.Builder, table [][]string, before, between, after string) {
	width := make([]int, len(table[0]))
	for _, cells := range table {
		for i, c := range cells {
			width[i] = max(width[i], len(c))
		}
	}
	for _, cells := range table {
		var out []string
		for i, c := range cells {
			out = append(out, fmt.Sprintf("%-*s", width[i], c))
		}
		text := before + strings.Join(out, between) + after
		s.WriteString(strings.TrimRight(text, " ") + "\n")
	}
}
