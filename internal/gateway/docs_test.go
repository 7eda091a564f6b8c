package gateway

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ferry/internal/admission"
	"ferry/internal/keepalive"
)

// Everything that is counted by a name is explained in docs/operations.md, and nothing else is.
func TestReasonsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	section := func(title string) (all []string) {
		_, rest, _ := strings.Cut(string(text), "### "+title)
		rest, _, _ = strings.Cut(rest, "\n#")
		for line := range strings.Lines(rest) {
			if cell, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " | "); ok {
				for _, m := range regexp.MustCompile("`([a-z0-9_]+)`").FindAllStringSubmatch(cell, -1) {
					all = append(all, m[1])
				}
			}
		}
		return all
	}
	ends := []string{"accept", "address_refused", "kicked", "reconfigured", "replaced", "reset", "resume_timeout", "revoked", "session_lifetime", "shutdown", "write"}
	for _, c := range causes {
		ends = append(ends, c.name)
	}
	for _, r := range []admission.Reason{
		admission.MaxSessions, admission.PlainSessions, admission.SourceSessions, admission.SourceUnknown,
		admission.SourceRate, admission.Penalised, admission.Rate, admission.Evicted,
	} {
		ends = append(ends, string(r))
	}
	for v := keepalive.JoinTimeout; v <= keepalive.IdleTimeout; v++ {
		ends = append(ends, v.String())
	}
	same(t, "causes", section("Why connections end"), ends)

	out, err := exec.Command("grep", "-ohE", `Drop[A-Za-z0-9]+: +"[a-z0-9_]+"`, "../router/reason.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	var drops []string
	for line := range strings.Lines(string(out)) {
		drops = append(drops, strings.Split(line, `"`)[1])
	}
	same(t, "reasons", section("Why packets"), drops)
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if want = slices.Compact(want); !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}
