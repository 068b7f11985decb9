// etcd, built out of its published modules. What is ours is that OpenTelemetry's SDK says on
// stderr how many spans each of its batches has, and how many it has dropped until then.
package main

import (
	"os"

	"github.com/go-logr/stdr"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	stdr.SetVerbosity(8)
	etcdmain.Main(os.Args)
}
