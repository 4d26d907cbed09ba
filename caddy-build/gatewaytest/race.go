//go:build race

package gatewaytest

// Tests under the race detector run a gateway under the race detector.
const raceSuffix = "-race"

var raceFlags = []string{"-race"}
