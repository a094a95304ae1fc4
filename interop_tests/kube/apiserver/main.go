// SPDX-License-Identifier: Apache-2.0

// kubetest is Kubernetes' own API server, controller manager and kubectl in one program, for tests on a machine without
// a cluster. `kubetest apiserver|controller-manager|kubectl ARGS` take the arguments of the originals.
// Only the command that is asked for may be built: they register their feature gates in the same process-wide set.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	commands := map[string]func() *cobra.Command{
		"apiserver":          apiserver.NewAPIServerCommand,
		"controller-manager": manager.NewControllerManagerCommand,
		"kubectl":            kubectl.NewDefaultKubectlCommand,
	}
	build := func() *cobra.Command { return nil }
	if len(os.Args) > 1 && commands[os.Args[1]] != nil {
		build = commands[os.Args[1]]
		os.Args = os.Args[1:]
	}
	command := build()
	if command == nil {
		fmt.Fprintln(os.Stderr, "usage: kubetest apiserver|controller-manager|kubectl ARGS")
		os.Exit(64)
	}
	command.SetArgs(os.Args[1:])
	os.Exit(cli.Run(command))
}
