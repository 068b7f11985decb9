// kube-apiserver, built out of its published modules. What is ours is that OpenTelemetry's SDK
// says on stderr how many spans each of its batches has, and how many it has dropped until then.
package main

import (
	"os"

	"github.com/go-logr/stdr"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	stdr.SetVerbosity(8)
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}
