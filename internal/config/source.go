package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"github.com/spf13/pflag"
)

// DefaultFile is the file that a program reads when no other is named, if it is there.
func DefaultFile(program string) string { return "/etc/ferry/" + program + ".toml" }

// open opens a file: os.Open, or what a process does that may not open it itself.
type open func(path string) (*os.File, error)

// A source knows where each key got its value from. It keeps the first error of those who read it.
type source struct {
	flags *pflag.FlagSet
	path  string         // of the file; empty: none
	lines map[string]int // key, or table.key, -> line in the file
	err   error
}

// load puts what the file says, and then what the flags say, into keys, to whose fields the flags
// are bound.
func load(flags *pflag.FlagSet, program string, keys any, open open) (*source, error) {
	s := &source{flags: flags, path: flags.Lookup("config").Value.String()}
	mayLack := s.path == "" && !flags.Changed("config")
	if mayLack {
		s.path = DefaultFile(program)
	}
	if s.path == "" {
		return s, nil
	}
	text, err := readFile(open, s.path)
	if mayLack && errors.Is(err, fs.ErrNotExist) {
		s.path = ""
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	given := setFlags(flags)
	if err := decode(s.path, text, keys); err != nil {
		return nil, err
	}
	s.lines = keyLines(text)
	return s, restore(given)
}

func readFile(open open, path string) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// A setFlag is a flag of the command line, with what was given to it.
type setFlag struct {
	flag   *pflag.Flag
	values []string
}

func setFlags(flags *pflag.FlagSet) (all []setFlag) {
	flags.Visit(func(f *pflag.Flag) {
		if list, ok := f.Value.(pflag.SliceValue); ok {
			all = append(all, setFlag{f, list.GetSlice()})
			return
		}
		all = append(all, setFlag{f, []string{f.Value.String()}})
	})
	return all
}

// restore undoes what the file did to keys that a flag had set.
func restore(given []setFlag) error {
	for _, g := range given {
		var err error
		if list, ok := g.flag.Value.(pflag.SliceValue); ok {
			err = list.Replace(g.values)
		} else {
			err = g.flag.Value.Set(g.values[0])
		}
		if err != nil {
			return fmt.Errorf("--%s: %w", g.flag.Name, err)
		}
	}
	return nil
}

// again gives flags what was given to others of the same names.
func again(to, from *pflag.FlagSet) error {
	for _, f := range setFlags(from) {
		for _, v := range f.values {
			if err := to.Set(f.flag.Name, v); err != nil {
				return fmt.Errorf("--%s: %w", f.flag.Name, err)
			}
		}
	}
	return nil
}

func decode(path string, text []byte, keys any) error {
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(keys)
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		e := &unknown.Errors[0]
		line, _ := e.Position()
		key := strings.Join(e.Key(), ".")
		return fmt.Errorf("%s:%d: unknown key %q%s", path, line, key, didYouMean(key, keyNames(keys), "%q"))
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		line, _ := bad.Position()
		what := explain(strings.TrimPrefix(bad.Error(), "toml: "))
		if key := strings.Join(bad.Key(), "."); key != "" {
			what = key + ": " + what
		}
		return fmt.Errorf("%s:%d: %s", path, line, what)
	}
	return err
}

// explain says in the language of the file what the decoder says in that of Go: its messages about
// a wrong type end with the Go type that was wanted.
func explain(msg string) string {
	if !strings.HasPrefix(msg, "cannot ") {
		return msg
	}
	wanted := map[string]string{
		"string":            `text in quotes`,
		"int":               `a whole number without quotes`,
		"uint32":            `a whole number without quotes`,
		"bool":              `true or false without quotes`,
		"[]string":          `a list of texts, as ["a", "b"]`,
		"map[string]string": `a table of texts`,
	}[msg[strings.LastIndex(msg, " ")+1:]]
	if wanted == "" {
		return msg
	}
	return "this has the wrong type: write " + wanted
}

// keyLines finds the line of each key. The decoder tells lines of its own errors only; the values
// are judged later.
func keyLines(text []byte) map[string]int {
	lines := make(map[string]int)
	var p unstable.Parser
	p.Reset(text)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		name, line := "", 0
		for key := e.Key(); key.Next(); {
			if name != "" {
				name += "."
			}
			name += string(key.Node().Data)
			line = p.Shape(key.Node().Raw).Start.Line
		}
		if e.Kind == unstable.Table {
			table = name + "."
			lines[lowerFirst(name)] = line
		} else {
			lines[lowerFirst(table+name)] = line
		}
	}
	return lines
}

// lowerFirst folds the part of a key in which the decoder does not tell capitals from small letters.
func lowerFirst(key string) string {
	first, rest, dotted := strings.Cut(key, ".")
	if first = strings.ToLower(first); dotted {
		return first + "." + rest
	}
	return first
}

// fail keeps err, unless there was one before, with the place that key got its value from.
func (s *source) fail(key string, err error) {
	if s.err != nil {
		return
	}
	name := flagName(key)
	if f := s.flags.Lookup(name); f != nil && f.Changed {
		s.err = &UsageError{fmt.Errorf("--%s: %w", name, err)}
		return
	}
	line, ok := s.lines[key]
	if !ok {
		table, _, _ := strings.Cut(key, ".") // written as table = { key = "..." }
		line, ok = s.lines[table]
	}
	if ok {
		s.err = fmt.Errorf("%s:%d: %s: %w", s.path, line, key, err)
		return
	}
	s.err = fmt.Errorf("%s: %w", key, err)
}

func flagName(key string) string { return strings.ReplaceAll(key, "_", "-") }

// read parses the value of a key.
func read[T any](s *source, key, text string, parse func(string) (T, error)) T {
	v, err := parse(text)
	if err != nil {
		s.fail(key, err)
	}
	return v
}

// readList parses each value of a key.
func readList[T any](s *source, key string, texts []string, parse func(string) (T, error)) []T {
	var all []T
	for _, text := range texts {
		all = append(all, read(s, key, text, parse))
	}
	return all
}

// inRange checks a number.
func inRange(s *source, key string, n, low, high int) int {
	if n < low || n > high {
		s.fail(key, fmt.Errorf("%d is not between %d and %d", n, low, high))
	}
	return n
}
