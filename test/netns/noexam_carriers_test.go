//go:build !exam

package netns

import "time"

// examCarriers are those that pass through the hostile networks in the exam only.
var examCarriers []carrierUnderTest

// resolverOutage is how long nobody answers questions.
const resolverOutage = 6 * time.Second
