// Command mutate turns over one decision of the source after the other, and runs the package's tests against
// each such mutant: one of them has to fail. What survives is a check that nobody would miss.
//
//	go run ./test/tools/mutate ./internal/identity ./internal/gateway:devices.go,enrol.go,serve.go
//
// Mutants are
//
//	==  !=       the other one                 &&  ||   the other one
//	<  >=  > <=  the opposite                  !x       x
//	if x         if !(x), where x is a call or a name
//
// The tree is not touched: each mutant is an overlay for go test. A line that ends in "// mutate: REASON" is
// passed over: it decides nothing that a test could see.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const testTime = 2 * time.Minute // for the tests of one mutant: one that hangs is found, too

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: mutate PACKAGE[:FILE,FILE] ...")
		os.Exit(2)
	}
	survived := 0
	for _, arg := range os.Args[1:] {
		n, err := pkg(arg)
		if err != nil {
			fmt.Fprintln(os.Stderr, "mutate:", err)
			os.Exit(1)
		}
		survived += n
	}
	if survived > 0 {
		fmt.Printf("%d mutants survived\n", survived)
		os.Exit(1)
	}
}

// pkg tests all mutants of a package, and returns how many survived.
func pkg(arg string) (survived int, err error) {
	dir, only, _ := strings.Cut(arg, ":")
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return 0, err
	}
	if failed, out := test(dir, nil); failed {
		return 0, fmt.Errorf("%s: its tests fail without any mutation:\n%s", dir, out)
	}
	all := 0
	for _, path := range files {
		name := filepath.Base(path)
		if strings.HasSuffix(name, "_test.go") || only != "" && !slices.Contains(strings.Split(only, ","), name) {
			continue
		}
		mutants, err := mutantsOf(path)
		if err != nil {
			return survived, err
		}
		for _, m := range mutants {
			all++
			alive, err := m.survives(dir, path)
			if err != nil {
				return survived, err
			}
			if alive {
				survived++
				fmt.Printf("SURVIVED %s:%d: %s\n", path, m.line, m.what)
			}
		}
	}
	fmt.Printf("%s: %d mutants, %d survived\n", arg, all, survived)
	if all == 0 {
		return survived, errors.New("nothing to mutate: is the name right?")
	}
	return survived, nil
}

// A mutant is a source text with one decision turned over.
type mutant struct {
	line int
	what string
	text []byte
}

// mutantsOf returns all mutants of a file.
func mutantsOf(path string) ([]mutant, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(text), "\n")
	var all []mutant
	// The tree is parsed anew for each, since a mutation stays in it.
	for i := 0; ; i++ {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, text, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		what, pos := mutate(file, i)
		if what == "" {
			return all, nil
		}
		line := fset.Position(pos).Line
		if strings.Contains(lines[line-1], "// mutate: ") {
			continue
		}
		var out bytes.Buffer
		if err := format.Node(&out, fset, file); err != nil {
			return nil, err
		}
		all = append(all, mutant{line, what, out.Bytes()})
	}
}

var opposite = map[token.Token]token.Token{
	token.EQL: token.NEQ, token.NEQ: token.EQL, token.LAND: token.LOR, token.LOR: token.LAND,
	token.LSS: token.GEQ, token.GEQ: token.LSS, token.GTR: token.LEQ, token.LEQ: token.GTR,
}

// mutate turns over the n-th decision of a file, and tells which that was; nothing where there are fewer.
func mutate(file *ast.File, n int) (what string, pos token.Pos) {
	turn := func() bool { n--; return n == -1 }
	ast.Inspect(file, func(node ast.Node) bool {
		switch x := node.(type) {
		case *ast.BinaryExpr:
			if to, ok := opposite[x.Op]; ok && turn() {
				what, pos = fmt.Sprintf("%s for %s", to, x.Op), x.OpPos
				x.Op = to
			}
		case *ast.UnaryExpr:
			if x.Op == token.NOT && turn() {
				what, pos = "no !", x.OpPos
				x.Op, x.X = token.NOT, &ast.UnaryExpr{Op: token.NOT, X: &ast.ParenExpr{X: x.X}}
			}
		case *ast.IfStmt:
			switch x.Cond.(type) {
			case *ast.CallExpr, *ast.Ident, *ast.SelectorExpr:
				if turn() {
					what, pos = "if !", x.If
					x.Cond = &ast.UnaryExpr{Op: token.NOT, X: x.Cond}
				}
			}
		}
		return what == ""
	})
	return what, pos
}

// survives tells whether all tests of a package pass with m in the place of a file.
func (m mutant) survives(dir, path string) (bool, error) {
	tmp, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp)
	full, err := filepath.Abs(path)
	if err != nil {
		return false, err
	}
	file, overlay := filepath.Join(tmp, "mutant.go"), filepath.Join(tmp, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {full: file}})
	if err != nil {
		return false, err
	}
	if err := errors.Join(os.WriteFile(file, m.text, 0o600), os.WriteFile(overlay, replace, 0o600)); err != nil {
		return false, err
	}
	failed, _ := test(dir, []string{"-overlay", overlay})
	return !failed, nil
}

// test runs the tests of a package.
func test(dir string, args []string) (failed bool, out string) {
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	defer cancel()
	args = append([]string{"test", "-count=1", "-failfast", "-vet=off", "-timeout=60s"}, args...)
	b, err := exec.CommandContext(ctx, "go", append(args, dir)...).CombinedOutput()
	return err != nil, string(b)
}
