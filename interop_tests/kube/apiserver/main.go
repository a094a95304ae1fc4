// SPDX-License-Identifier: Apache-2.0

// kubetest is Kubernetes' own API server and controller manager in one program, for tests on a machine without a
// cluster. `kubetest apiserver FLAGS` and `kubetest controller-manager FLAGS` take the flags of the originals.
// Only the command that is asked for may be built: both register their feature gates in the same process-wide set.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	commands := map[string]func() *cobra.Command{
		"apiserver":          apiserver.NewAPIServerCommand,
		"controller-manager": manager.NewControllerManagerCommand,
	}
	build := func() *cobra.Command { return nil }
	if len(os.Args) > 1 && commands[os.Args[1]] != nil {
		build = commands[os.Args[1]]
	}
	command := build()
	if command == nil {
		fmt.Fprintln(os.Stderr, "usage: kubetest apiserver|controller-manager FLAGS")
		os.Exit(64)
	}
	command.SetArgs(os.Args[2:])
	os.Exit(cli.Run(command))
}
