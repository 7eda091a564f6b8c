package hostdns

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// Our file, as a program and a person can read it:
//
//	# Made by Ferry for ferry0. What stands behind #| comes back when the tunnel ends.
//	# ferry-link ferry0 net:[4026531840] 5e1a9b9e-...
//	nameserver 10.0.0.1
//	search site.example
//	#| nameserver 192.168.1.1
//
// Behind "#/" is a last line without an end; "#@" has the target of a symlink, "#-" says that there was
// no file.
const (
	markPrefix = "# ferry-link "
	linePrefix = "#| "
	lastPrefix = "#/ "
	linkPrefix = "#@ "
	nonePrefix = "#-"
)

// A marker says who made a file.
type marker struct{ link, netns, boot string }

// content is what the file has, or had.
type content struct {
	text    string
	mode    fs.FileMode
	link    string // target of a symlink that was in its place
	missing bool
	by      *marker  // ours; nil: somebody else's
	before  *content // with by
}

func (l *Link) marker() marker {
	netns, _ := os.Readlink("/proc/self/ns/net")
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return marker{l.name, netns, strings.TrimSpace(string(boot))}
}

// read returns what the file has, where it leads to.
func (l *Link) read() (*content, error) {
	f, err := os.Open(l.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxFile || !fi.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file of a resolver: larger than %d bytes, or none at all", l.file, maxFile)
	}
	c := parse(string(text))
	c.mode = fi.Mode().Perm()
	return c, nil
}

// parse takes a text apart that may be ours.
func parse(text string) *content {
	c := &content{text: text}
	_, rest, _ := strings.Cut(text, "\n")
	line, rest, _ := strings.Cut(rest, "\n")
	words := strings.Fields(strings.TrimPrefix(line, markPrefix))
	if !strings.HasPrefix(line, markPrefix) || len(words) != 3 {
		return c
	}
	c.by = &marker{words[0], words[1], words[2]}
	var old strings.Builder
	before := &content{}
	for line := range strings.Lines(rest) {
		switch {
		case strings.HasPrefix(line, linePrefix):
			old.WriteString(line[len(linePrefix):])
		case strings.HasPrefix(line, lastPrefix):
			old.WriteString(strings.TrimSuffix(line[len(lastPrefix):], "\n"))
		case strings.HasPrefix(line, linkPrefix):
			before.link = strings.TrimSuffix(line[len(linkPrefix):], "\n")
		case strings.HasPrefix(line, nonePrefix):
			before.missing = true
		}
	}
	if before.link == "" && !before.missing {
		before = parse(old.String())
	}
	c.before = before
	return c
}

func format(m marker, s State, before *content) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Made by Ferry for %s. What stands behind #| comes back when the tunnel ends.\n", m.link)
	fmt.Fprintf(&b, "%s%s %s %s\n", markPrefix, m.link, m.netns, m.boot)
	for _, a := range s.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if len(s.Domains) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(s.Domains, " "))
	}
	switch {
	case before.link != "":
		b.WriteString(linkPrefix + before.link + "\n")
	case before.missing:
		b.WriteString(nonePrefix + "\n")
	}
	for line := range strings.Lines(before.text) {
		if strings.HasSuffix(line, "\n") {
			b.WriteString(linePrefix + line)
		} else {
			b.WriteString(lastPrefix + line + "\n")
		}
	}
	return b.String()
}
