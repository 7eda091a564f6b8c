package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"ferry/internal/proto"
)

// describe adds to a version what else tells one build from another.
func describe(version string) string {
	commit := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		commit = revision(info.Settings)
	}
	return fmt.Sprintf("%s (%s%s %s/%s, protocol %d)", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, proto.Version)
}

func revision(settings []debug.BuildSetting) string {
	var commit, modified string
	for _, s := range settings {
		switch {
		case s.Key == "vcs.revision":
			commit = "commit " + s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = " with changes"
		}
	}
	if commit == "" {
		return ""
	}
	return commit + modified + ", "
}
