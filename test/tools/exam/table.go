package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A row is a case with what its tests have shown.
type row struct {
	testCase
	result string
	tests  []string
	figure string
}

// table makes a row of each case, and names those that should have passed and did not.
func table(marks []mark, results map[string]*result) (rows []row, bad []string) {
	for _, c := range cases {
		r := row{testCase: c}
		var took time.Duration
		var figures []string
		for _, m := range covering(marks, c.id) {
			got := results[m.name()]
			if got == nil {
				got = &result{}
			}
			r.tests = append(r.tests, m.name())
			r.result = worse(r.result, verdict(got))
			took += got.took
			figures = append(figures, got.figures[c.id]...)
		}
		switch {
		case len(r.tests) > 0:
			figures = append(figures, fmt.Sprintf("%.1f s", took.Seconds()))
			r.figure = strings.Join(figures, "; ")
			if c.later != "" {
				r.result += "; without: " + c.later
			}
		case c.later != "":
			r.result = "later: " + c.later
		default:
			r.result = "no test"
		}
		if r.result != "pass" && !strings.HasPrefix(r.result, "pass; ") && !strings.HasPrefix(r.result, "later: ") {
			bad = append(bad, c.id)
		}
		rows = append(rows, r)
	}
	return rows, bad
}

func verdict(r *result) string {
	switch r.action {
	case "skip":
		return "not here: " + r.reason
	case "pass":
		return "pass"
	}
	return "fail"
}

// worse returns what is to be said of two tests of the same case.
func worse(a, b string) string {
	rank := func(s string) int { return slices.Index([]string{"", "pass", "not ", "fail"}, s[:min(4, len(s))]) }
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// format makes a table of Markdown.
func format(rows []row) string {
	var b strings.Builder
	b.WriteString("| case | what | result | figures, time of its tests | tests |\n|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.id, cell(r.what), cell(r.result), cell(r.figure), strings.Join(r.tests, ", "))
	}
	return b.String()
}

// cell keeps text from being taken for the end of a cell.
func cell(s string) string { return strings.NewReplacer("|", `\|`, "\n", " ").Replace(s) }

func names(marks []mark) string {
	var all []string
	for _, m := range marks {
		all = append(all, m.name())
	}
	return strings.Join(all, " ")
}
