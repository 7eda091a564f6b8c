package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// prefix begins the line of a test's comment that names its cases:
//
//	// exam: M1, M2
const prefix = "exam:"

// A mark is a test that covers cases.
type mark struct {
	dir, test string
	cases     []string
}

// name is how the table calls a test.
func (m mark) name() string { return strings.TrimPrefix(m.dir, "internal/") + "." + m.test }

// collect reads the marks of all tests below root, and checks that they name cases that there are.
func collect(root string) (all []mark, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (d.Name() == "testdata" || d.Name()[0] == '.'):
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		found, err := marksOf(file, filepath.ToSlash(dir))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, found...)
		return nil
	})
	return all, err
}

// marksOf returns the marks of a file. A mark that belongs to no test would cover nothing, and is an error.
func marksOf(file *ast.File, dir string) (all []mark, err error) {
	left := 0
	for _, group := range file.Comments {
		left += len(named(group))
	}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !isTest(f.Name.Name) {
			continue
		}
		lines := named(f.Doc)
		if len(lines) == 0 {
			continue
		}
		m := mark{dir: dir, test: f.Name.Name}
		for id := range strings.SplitSeq(strings.Join(lines, ","), ",") {
			id = strings.TrimSpace(id)
			if !slices.ContainsFunc(cases, func(c testCase) bool { return c.id == id }) {
				return nil, fmt.Errorf("%s: the exam has no case %q", m.test, id)
			}
			m.cases = append(m.cases, id)
		}
		left -= len(lines)
		all = append(all, m)
	}
	if left > 0 {
		return nil, fmt.Errorf("%d lines '%s' are not directly above a test", left, prefix)
	}
	return all, nil
}

func isTest(name string) bool {
	return strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz")
}

// named returns what follows the prefix in the lines of a comment.
func named(group *ast.CommentGroup) (lines []string) {
	if group == nil {
		return nil
	}
	for _, c := range group.List {
		if text, ok := strings.CutPrefix(c.Text, "// "+prefix); ok {
			lines = append(lines, text)
		}
	}
	return lines
}

// missing returns the cases that no test covers though one has to.
func missing(marks []mark) (ids []string) {
	for _, c := range cases {
		if c.later == "" && len(covering(marks, c.id)) == 0 {
			ids = append(ids, c.id)
		}
	}
	return ids
}

// covering returns the tests of a case.
func covering(marks []mark, id string) (all []mark) {
	for _, m := range marks {
		if slices.Contains(m.cases, id) {
			all = append(all, m)
		}
	}
	return all
}
