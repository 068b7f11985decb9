// Grpcpeer is grpc-go as a peer of k8strace's engines:
//
//	grpcpeer client   makes the calls that stdin asks for, one JSON object a line
//	grpcpeer server   serves any method until stdin ends; says on stdout what it got
//	grpcpeer export   sends spans by OpenTelemetry's SDK and its exporter
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"

	_ "google.golang.org/grpc/encoding/gzip"
)

const usage = "grpcpeer client | server | export"

func main() {
	commands := map[string]func(*flag.FlagSet, []string) error{
		"client": client, "server": server, "export": export,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fail(fmt.Errorf("usage: %s", usage))
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	if err := commands[os.Args[1]](flags, os.Args[2:]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "grpcpeer:", err)
	os.Exit(1)
}

var stdout sync.Mutex

// say writes a value as a line of JSON.
func say(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		fail(err)
	}
	stdout.Lock()
	defer stdout.Unlock()
	if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
		fail(err)
	}
}

// raw is a codec that leaves messages as they are. It has no name, so that the content
// type is that of generated code: application/grpc.
type raw struct{}

func (raw) Marshal(value any) ([]byte, error) { return *value.(*[]byte), nil }

func (raw) Unmarshal(data []byte, value any) error {
	*value.(*[]byte) = append([]byte{}, data...)
	return nil
}

func (raw) Name() string { return "" }
