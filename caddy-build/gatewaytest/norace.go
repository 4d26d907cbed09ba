//go:build !race

package gatewaytest

const raceSuffix = ""

var raceFlags []string
