// Package browser opens pages in a headless Chromium, for tests of the page that vpnsrv serves.
package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// patience is how long a page may take for what it does in a moment, on a machine that does other things, too.
const patience = 30 * time.Second

// shots names a directory for screenshots; without it there are none.
const shots = "FERRY_SHOTS"

// programs are the browsers that would do, the smallest first.
var programs = []string{"chromium-headless-shell", "chromium"}

// A Page is one tab of a browser of its own.
type Page struct {
	t   *testing.T
	ctx context.Context

	mu     sync.Mutex
	faults []string
}

// New starts a browser, which ends with the test. Without one the test is skipped.
func New(t *testing.T) *Page {
	t.Helper()
	var program string
	for _, p := range programs {
		if found, err := exec.LookPath(p); err == nil && program == "" {
			program = found
		}
	}
	if program == "" {
		t.Skipf("none of %s is there: scripts/deps.sh test installs it", strings.Join(programs, ", "))
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 900))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // as root it has none
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel) // and waits for the process
	ctx, cancel = chromedp.NewContext(ctx)
	p := &Page{t: t, ctx: ctx}
	var reading sync.WaitGroup
	t.Cleanup(func() { cancel(); reading.Wait() })
	said := chromedp.Console(ctx)
	p.Do() // starts it
	reading.Go(func() {
		for m, err := range said {
			if err != nil {
				return
			}
			p.note(m)
		}
	})
	return p
}

// note keeps what a person would find in red or yellow in the console: exceptions, errors, violations of the page's policy.
func (p *Page) note(m chromedp.ConsoleMessage) {
	if !slices.Contains([]chromedp.ConsoleType{chromedp.ConsoleException, chromedp.ConsoleError, chromedp.ConsoleWarning}, m.Type) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, fmt.Sprintf("%s: %s", m.Type, m.Text))
}

// Faults are the errors and warnings of the console since the last call.
func (p *Page) Faults() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.faults
	p.faults = nil
	return all
}

// Click presses the mouse on the first element of a selector of CSS.
func (p *Page) Click(selector string) {
	p.t.Helper()
	p.Do(chromedp.Click(chromedp.CSS(selector)))
}

// Press presses keys, wherever the focus is.
func (p *Page) Press(keys string) {
	p.t.Helper()
	p.Do(chromedp.KeyEvent(keys))
}

// Type writes text into the field of a selector, in the place of what is there.
func (p *Page) Type(selector, text string) {
	p.t.Helper()
	p.Text(fmt.Sprintf("(e => { e.focus(); e.value = ''; e.dispatchEvent(new Event('input')) })(document.querySelector(%q))", selector))
	p.Press(text)
}

// Do does what chromedp can do. An error ends the test.
func (p *Page) Do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.t.Fatalf("browser: %v; console: %q", err, p.Faults())
	}
}

// Open goes to a URL.
func (p *Page) Open(url string) {
	p.t.Helper()
	p.Do(chromedp.Navigate(url))
}

// Text returns the value of an expression of JavaScript as text.
func (p *Page) Text(expression string) string {
	p.t.Helper()
	text, err := p.evaluate(expression)
	if err != nil {
		p.t.Fatalf("%s: %v; console: %q", expression, err, p.Faults())
	}
	return text
}

func (p *Page) evaluate(expression string) (string, error) {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[string]("String("+expression+")"))
}

// Wait waits until an expression is true. What can not be evaluated yet, for the page is on its way, is not true.
func (p *Page) Wait(expression string) {
	p.t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	var last string
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); <-ticker.C {
		if last, err = p.evaluate(expression); last == "true" {
			return
		}
	}
	text, _ := p.evaluate("document.body.innerText")
	p.t.Fatalf("%s: got %q, %v; console: %q; the page:\n%.1500s", expression, last, err, p.Faults(), text)
}

// Show sets the size of the window, in pixels, and whether the person likes it dark.
func (p *Page) Show(width, height int64, dark bool) {
	p.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	features := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	p.Do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, features)
		return err
	}), chromedp.EmulateViewport(width, height))
}

// Shot makes a screenshot in the directory that FERRY_SHOTS names.
func (p *Page) Shot(name string) {
	p.t.Helper()
	dir := os.Getenv(shots)
	if dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		p.t.Error(err)
	}
}
