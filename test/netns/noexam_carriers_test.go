//go:build !exam

package netns

// examCarriers are those that pass through the hostile networks in the exam only.
var examCarriers []carrierUnderTest
