package settings

import (
	"testing"

	"ferry/internal/admission"
	"ferry/internal/identity"
)

// A gateway without a key takes as many of one source as in 2013; one with a key has the limits of the
// Internet; and what an operator says counts in both.
func TestLimits(t *testing.T) {
	for name, tt := range map[string]struct {
		c       Config
		perHost int
		plain   int
	}{
		"no key":        {Config{}, noLimit, DefaultMaxSessions},
		"no key, said":  {Config{MaxSessions: 50, Limits: admission.Limits{SourceSessions: 7}}, 7, 50},
		"key":           {Config{Key: identity.NewKey()}, 32, DefaultMaxSessions / 2},
		"key, said":     {Config{Key: identity.NewKey(), MaxSessions: 50, Limits: admission.Limits{SourceSessions: 7, Plain: 9}}, 7, 9},
		"key, one only": {Config{Key: identity.NewKey(), MaxSessions: 1}, 32, 1},
	} {
		t.Run(name, func(t *testing.T) {
			tt.c.SetDefaults()
			if l := tt.c.Limits; l.SourceSessions != tt.perHost || l.Plain != tt.plain || l.Unknown != 256 || l.Sessions != tt.c.MaxSessions {
				t.Errorf("got %+v", l)
			}
		})
	}
}
