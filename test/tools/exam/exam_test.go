package main

import (
	"go/parser"
	"go/token"
	"io"
	"reflect"
	"strings"
	"testing"
)

// Each case that is not for later has a test, and each mark names a case.
func TestEachCaseHasATest(t *testing.T) {
	marks, err := collect("../../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(marks) < 50 {
		t.Errorf("%d tests are marked: is this the whole?", len(marks))
	}
	if ids := missing(marks); len(ids) > 0 {
		t.Errorf("no test has the line '// %s' with %s", prefix, strings.Join(ids, ", "))
	}
}

func TestMarks(t *testing.T) {
	for name, tt := range map[string]struct {
		source string
		want   []mark // nil: an error
	}{
		"one":     {"// TestX does it.\n// exam: M1, M2\nfunc TestX() {}", []mark{{"d", "TestX", []string{"M1", "M2"}}}},
		"none":    {"// TestX does it (exam M1).\nfunc TestX() {}", []mark{}},
		"fuzz":    {"// exam: A1\nfunc FuzzX() {}", []mark{{"d", "FuzzX", []string{"A1"}}}},
		"unknown": {"// exam: M99\nfunc TestX() {}", nil},
		"helper":  {"// exam: M1\nfunc help() {}", nil},
		"apart":   {"// exam: M1\n\nfunc TestX() {}", nil},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+tt.source, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			got, err := marksOf(file, "d")
			if (err == nil) != (tt.want != nil) || len(got) != len(tt.want) || len(got) > 0 && !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

func TestVerdicts(t *testing.T) {
	const events = `{"Action":"output","Test":"TestGood","Output":"    x_test.go:1: exam: M1: 7 of 7\n"}
{"Action":"pass","Test":"TestGood","Elapsed":1.5}
{"Action":"output","Test":"TestBad","Output":"    x_test.go:1: wrong\n"}
{"Action":"fail","Test":"TestBad","Elapsed":1}
{"Action":"output","Test":"TestPart/one","Output":"    x_test.go:1: no such kernel\n"}
{"Action":"skip","Test":"TestPart/one","Elapsed":0}
{"Action":"pass","Test":"TestPart","Elapsed":2}
`
	results := map[string]*result{}
	var marks []mark
	for name, ids := range map[string][]string{
		"TestGood": {"M1", "M2", "M3", "M4", "F8"}, "TestBad": {"M2"}, "TestPart": {"M3"}, "TestGone": {"M4"},
	} {
		results[name] = &result{figures: map[string][]string{}}
		marks = append(marks, mark{"d", name, ids})
	}
	if err := note(strings.NewReader(events), results, io.Discard); err != nil {
		t.Fatal(err)
	}
	named := map[string]*result{}
	for name, r := range results {
		named["d."+name] = r
	}
	rows, bad := table(marks, named)
	got := map[string]row{}
	for _, r := range rows {
		got[r.id] = r
	}
	for id, want := range map[string]string{
		"M1": "pass", "M2": "fail", "M3": "not here: one: no such kernel", "M4": "fail", "M5": "no test", "F16": "later: KVM",
		"F8": "pass; without: jitter and reordering of TCP: this kernel has no netem",
	} {
		if got[id].result != want {
			t.Errorf("%s: got %q, want %q", id, got[id].result, want)
		}
	}
	if f := got["M1"].figure; f != "7 of 7; 1.5 s" {
		t.Errorf("figure %q", f)
	}
	if all := strings.Join(bad, " "); !strings.HasPrefix(all, "M2 M3 M4 M5 ") || strings.Contains(all, "F8") || strings.Contains(all, "F16") {
		t.Errorf("not passed: %s", all)
	}
	for _, line := range strings.Split(strings.TrimSpace(format(rows)), "\n") {
		if n := strings.Count(line, "|"); n != 6 {
			t.Errorf("%d bars in %q", n, line)
		}
	}
}
