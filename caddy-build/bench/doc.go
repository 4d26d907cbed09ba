// Command bench compares what a request costs behind wxgate with what it costs
// without it and with what people use today. Everything runs on loopback, each
// part in a process of its own:
//
//	load ─▶ proxy under test ─▶ upstream
//	             └─▶ auth service (rows e and f)
//
// The figure that counts is the CPU time of the proxy side, as the operating
// system accounts it to the processes, divided by the requests. Unlike
// requests per second it hardly depends on what else the machine does. The rows
// take turns in short rounds, and each ratio is taken within a round, so that
// what still changes over time hits all rows alike.
//
//	go run ./caddy-build/bench            the load comparison
//	go run ./caddy-build/bench logins     logins per second through the gateway
//	go run ./caddy-build/bench writes     durable logins per second of the store
//	go run ./caddy-build/bench scale      memory, disk, reopening and look-ups by number of sessions
//
// Each has flags; -h lists them. docs/performance.md holds the results.
package main
