// Command exam runs the tests that cover the cases of the exam, what Ferry must survive, and writes a table
// of the results. A test says in the line above it which cases it covers:
//
//	// exam: M1, M2
//	func TestSplits(t *testing.T) {
//
// The command fails when a case has no test, or one of its tests failed or was skipped. Cases whose turn has
// not come say why not (cases.go).
//
//	exam                 run all, and write docs/exam.md
//	exam -only F1,L3     run the tests of some cases; nothing is written
//	exam -list           the tests of each case; nothing is run
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxTime is how long the tests of one package may take in all, above the soak.
const maxTime = 4 * time.Hour

func main() {
	only := flag.String("only", "", "`cases` to run the tests of, with commas between them")
	list := flag.Bool("list", false, "print the tests of each case, and run none")
	out := flag.String("o", "docs/exam.md", "`file` for the table")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := examine(ctx, *only, *list, *out); err != nil {
		fmt.Fprintln(os.Stderr, "exam:", err)
		os.Exit(1)
	}
}

func examine(ctx context.Context, only string, list bool, out string) error {
	marks, err := collect(".")
	if err != nil {
		return err
	}
	if only != "" {
		ids := strings.Split(only, ",")
		marks = slices.DeleteFunc(marks, func(m mark) bool {
			return !slices.ContainsFunc(m.cases, func(id string) bool { return slices.Contains(ids, id) })
		})
	}
	if list {
		for _, c := range cases {
			fmt.Printf("%-4s %s\n", c.id, names(covering(marks, c.id)))
		}
		return nil
	}
	began := time.Now()
	results, err := runAll(ctx, marks)
	if err != nil {
		return err
	}
	rows, bad := table(marks, results)
	if only != "" {
		ids := strings.Split(only, ",")
		rows = slices.DeleteFunc(rows, func(r row) bool { return !slices.Contains(ids, r.id) })
		bad = slices.DeleteFunc(bad, func(id string) bool { return !slices.Contains(ids, id) })
		fmt.Print(format(rows))
	} else {
		text := header(began) + format(rows)
		fmt.Print(text)
		if err := os.WriteFile(out, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if len(bad) > 0 {
		return errors.New("not passed: " + strings.Join(bad, ", "))
	}
	return nil
}

// runAll runs the tests package by package: what they measure must not be disturbed by each other.
func runAll(ctx context.Context, marks []mark) (map[string]*result, error) {
	byDir := map[string][]string{}
	for _, m := range marks {
		byDir[m.dir] = append(byDir[m.dir], m.test)
	}
	all := map[string]*result{}
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		fmt.Fprintln(os.Stderr, "== "+dir)
		results, err := run(ctx, ".", dir, byDir[dir], maxTime, os.Stderr)
		if err != nil {
			return nil, fmt.Errorf("go test ./%s: %w", dir, err)
		}
		for name, r := range results {
			all[mark{dir: dir, test: name}.name()] = r
		}
	}
	return all, nil
}

// header says what was tested, where and when.
func header(began time.Time) string {
	commit, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	var kernel unix.Utsname
	_ = unix.Uname(&kernel)
	soak := os.Getenv("EXAM_SOAK")
	if soak == "" {
		soak = "30m"
	}
	return fmt.Sprintf(`# Results of the exam

What Ferry must survive, case by case, and the tests that show it. Written by `+"`make exam`"+`; do not edit.
%s, commit %s, Linux %s, a soak of %s, %s in all.

`, began.UTC().Format("2006-01-02"), strings.TrimSpace(string(commit)), unix.ByteSliceToString(kernel.Release[:]), soak,
		time.Since(began).Round(time.Second))
}
