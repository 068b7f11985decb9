package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// command asks for calls with one and the same message. Times are in milliseconds, 0: none.
type command struct {
	ID          int               `json:"id"`
	Path        string            `json:"path"`
	Size        int               `json:"size"`
	Compression string            `json:"compression"`
	Timeout     int               `json:"timeout"`
	Cancel      int               `json:"cancel"`
	Wait        bool              `json:"wait"`
	Metadata    map[string]string `json:"metadata"`
	Count       int               `json:"count"`
	InFlight    int               `json:"in_flight"`
}

// result counts what came of them. Message, Details (a google.rpc.Status) and Trailer are
// those of a call that failed; Echoed counts answers that were the message.
type result struct {
	ID      int                 `json:"id"`
	Codes   map[string]int      `json:"codes"`
	Echoed  int                 `json:"echoed"`
	Message string              `json:"message"`
	Details []byte              `json:"details"`
	Trailer map[string][]string `json:"trailer"`
	mutex   sync.Mutex
}

func client(flags *flag.FlagSet, args []string) error {
	target := flags.String("target", "", "a gRPC name")
	connections := flags.Int("connections", 1, "how many, each used in its turn")
	ping := flags.Duration("ping", 0, "keepalive time; gRPC takes no less than 10 s")
	idle := flags.Bool("ping-idle", false, "pings without streams")
	if err := flags.Parse(args); err != nil {
		return err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(1<<30),
		),
	}
	if *ping > 0 {
		options = append(options, grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: *ping, PermitWithoutStream: *idle,
		}))
	}
	channels := make([]*grpc.ClientConn, *connections)
	for i := range channels {
		channel, err := grpc.NewClient(*target, options...)
		if err != nil {
			return err
		}
		defer channel.Close()
		channels[i] = channel
	}
	var running sync.WaitGroup
	defer running.Wait()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		asked := command{Count: 1, InFlight: 1}
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			return err
		}
		running.Add(1)
		go func() {
			defer running.Done()
			say(asked.run(channels))
		}()
	}
	return lines.Err()
}

// body is a message that is half noise, half zeros, other for each size.
func body(size int) []byte {
	message := make([]byte, size)
	noise := rand.NewChaCha8([32]byte{byte(size)})
	noise.Read(message[:size/2])
	return message
}

func (c *command) run(channels []*grpc.ClientConn) *result {
	found := &result{ID: c.ID, Codes: map[string]int{}}
	message := body(c.Size)
	var group sync.WaitGroup
	numbers := make(chan int)
	for range c.InFlight {
		group.Add(1)
		go func() {
			defer group.Done()
			for number := range numbers {
				c.call(channels[number%len(channels)], message, found)
			}
		}()
	}
	for number := range c.Count {
		numbers <- number
	}
	close(numbers)
	group.Wait()
	return found
}

func (c *command) call(channel *grpc.ClientConn, message []byte, found *result) {
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(
		context.Background(), metadata.New(c.Metadata),
	))
	defer cancel()
	if c.Timeout > 0 {
		limited, end := context.WithTimeout(ctx, time.Duration(c.Timeout)*time.Millisecond)
		defer end()
		ctx = limited
	}
	if c.Cancel > 0 {
		defer time.AfterFunc(time.Duration(c.Cancel)*time.Millisecond, cancel).Stop()
	}
	var answer []byte
	var trailer metadata.MD
	options := []grpc.CallOption{grpc.WaitForReady(c.Wait), grpc.Trailer(&trailer)}
	if c.Compression != "" {
		options = append(options, grpc.UseCompressor(c.Compression))
	}
	err := channel.Invoke(ctx, c.Path, &message, &answer, options...)
	found.add(err, trailer, err == nil && bytes.Equal(answer, message))
}

func (r *result) add(err error, trailer metadata.MD, echoed bool) {
	got := status.Convert(err)
	details, _ := proto.Marshal(got.Proto())
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.Codes[got.Code().String()]++
	if echoed {
		r.Echoed++
	}
	if err != nil {
		r.Message, r.Details, r.Trailer = got.Message(), details, trailer
	}
}
