package internaldeps

import (
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/dgraph-io/badger/v4"
	_ "github.com/dustin/go-humanize"
	_ "github.com/maypok86/otter/v2"
	_ "github.com/prometheus/client_golang/prometheus"
	_ "github.com/redis/rueidis"
	_ "github.com/sony/gobreaker/v2"
	_ "github.com/spf13/cobra"
	_ "github.com/stretchr/testify/require"
	_ "go.uber.org/zap"
	_ "golang.org/x/sync/singleflight"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/time/rate"
	_ "golang.org/x/term"
	_ "github.com/prometheus/common/expfmt"
	_ "github.com/prometheus/client_golang/prometheus/testutil"
)
