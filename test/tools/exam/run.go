package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// An event is a line of 'go test -json'.
type event struct {
	Action  string
	Test    string
	Elapsed float64 // seconds
	Output  string
}

// A result is what became of one test.
type result struct {
	action  string // pass, fail, skip; "": it did not run
	took    time.Duration
	reason  string              // why it was skipped
	figures map[string][]string // by case
}

// figure is how a test tells what it measured for a case:  t.Logf("exam: F1: ...").
var figure = regexp.MustCompile(`exam: ([A-Z][0-9]+): (.*)`)

// location begins a line of t.Log.
var location = regexp.MustCompile(`^\s*\S+_test\.go:[0-9]+: `)

// run runs the tests of one package, and tells of what happens as it does.
func run(ctx context.Context, root, dir string, tests []string, limit time.Duration, progress io.Writer) (map[string]*result, error) {
	results := map[string]*result{}
	for _, name := range tests {
		results[name] = &result{figures: map[string][]string{}}
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-tags", "exam", "-json", "-count=1", "-parallel", "4",
		"-timeout", limit.String(), "-run", "^("+strings.Join(tests, "|")+")$", "./"+dir)
	cmd.Dir, cmd.Stderr = root, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // so that tests clean up
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	readErr := note(out, results, progress)
	var failed *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &failed) {
		return results, err
	}
	return results, errors.Join(readErr, ctx.Err())
}

// note reads events into results.
func note(out io.Reader, results map[string]*result, progress io.Writer) error {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	said := map[string][]string{} // by top-level test, to be shown if it fails
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // what the build says
		}
		name, sub, isSub := strings.Cut(e.Test, "/")
		r := results[name]
		switch {
		case r == nil && e.Action == "output" && e.Test == "":
			said[""] = append(said[""], e.Output)
		case r == nil:
		case e.Action == "output":
			said[name] = append(said[name], e.Output)
			if text := location.ReplaceAllString(e.Output, ""); text != e.Output {
				r.reason = strings.TrimSpace(text)
				if m := figure.FindStringSubmatch(text); m != nil {
					r.figures[m[1]] = append(r.figures[m[1]], strings.TrimSpace(m[2]))
				}
				if strings.HasPrefix(text, prefix) {
					fmt.Fprintf(progress, "  %s: %s", name, text)
				}
			}
		case isSub && e.Action == "skip": // a part that was left out makes the whole no pass
			r.action, r.reason = "skip", sub+": "+r.reason
		case !isSub && slices.Contains([]string{"pass", "fail", "skip"}, e.Action):
			if r.action == "" || e.Action == "fail" {
				r.action = e.Action
			}
			r.took = time.Duration(e.Elapsed * float64(time.Second))
			fmt.Fprintf(progress, "%s %s %.1fs\n", r.action, name, e.Elapsed)
			if r.action == "fail" {
				fmt.Fprint(progress, strings.Join(said[name], ""))
			}
			delete(said, name)
		}
	}
	for name, r := range results {
		if r.action == "" {
			fmt.Fprintf(progress, "%s did not end\n%s", name, strings.Join(append(said[name], said[""]...), ""))
		}
	}
	return lines.Err()
}
