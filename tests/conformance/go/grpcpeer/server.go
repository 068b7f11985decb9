package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"io"
	"math"
	"net"
	"os"
	"strconv"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// call is what the server says of each call that it got.
type call struct {
	Path     string              `json:"path"`
	Size     int                 `json:"size"`
	SHA256   string              `json:"sha256"`
	Encoding string              `json:"encoding"`
	Deadline float64             `json:"deadline"`
	Peer     string              `json:"peer"`
	Metadata map[string][]string `json:"metadata"`
	Ended    string              `json:"ended"`
}

func server(flags *flag.FlagSet, args []string) error {
	address := flags.String("address", "127.0.0.1:0", "where to listen")
	most := flags.Int("max-message", 4<<20, "bytes of a message")
	streams := flags.Uint("max-streams", math.MaxUint32, "streams of a connection")
	window := flags.Int("window", 0, "bytes; 0: as grpc-go likes, by what it measures")
	age := flags.Duration("max-age", 0, "of a connection; 0: none")
	grace := flags.Duration("grace", 0, "for what runs on a connection of that age")
	quiet := flags.Bool("quiet", false, "say nothing of calls")
	if err := flags.Parse(args); err != nil {
		return err
	}
	options := []grpc.ServerOption{
		grpc.ForceServerCodec(raw{}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			return handle(stream, *quiet)
		}),
		grpc.MaxRecvMsgSize(*most),
		grpc.MaxConcurrentStreams(uint32(*streams)),
		grpc.StatsHandler(encodings{}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: *age, MaxConnectionAgeGrace: *grace,
		}),
	}
	if *window > 0 {
		options = append(
			options,
			grpc.InitialWindowSize(int32(*window)),
			grpc.InitialConnWindowSize(int32(*window)),
		)
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	serving := grpc.NewServer(options...)
	say(map[string]string{"address": listener.Addr().String()})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		serving.Stop()
	}()
	return serving.Serve(listener)
}

// handle answers as the call's metadata asks:
//
//	x-hang           not until the call is over; that it came is said, too
//	x-headers        headers first, so that a failure isn't "trailers only"
//	x-status         with this google.rpc.Status, in hexadecimal
//	x-answer-size    with as many bytes
func handle(stream grpc.ServerStream, quiet bool) error {
	ctx := stream.Context()
	asked, _ := metadata.FromIncomingContext(ctx)
	var message []byte
	if err := stream.RecvMsg(&message); err != nil {
		return err
	}
	if asked["x-hang"] != nil && !quiet {
		report(ctx, stream, message, asked, nil)
	}
	err := answer(ctx, stream, asked)
	if !quiet {
		report(ctx, stream, message, asked, err)
	}
	return err
}

func answer(ctx context.Context, stream grpc.ServerStream, asked metadata.MD) error {
	if asked["x-hang"] != nil {
		<-ctx.Done()
		return ctx.Err()
	}
	if asked["x-headers"] != nil {
		if err := stream.SendHeader(metadata.Pairs("x-first", "yes")); err != nil {
			return err
		}
	}
	if value := asked["x-status"]; value != nil {
		var wanted spb.Status
		data, err := hex.DecodeString(value[0])
		if err == nil {
			err = proto.Unmarshal(data, &wanted)
		}
		if err != nil {
			return err
		}
		return status.ErrorProto(&wanted)
	}
	answer := []byte("answer")
	if value := asked["x-answer-size"]; value != nil {
		size, err := strconv.Atoi(value[0])
		if err != nil {
			return err
		}
		answer = body(size)
	}
	return stream.SendMsg(&answer)
}

func report(
	ctx context.Context, stream grpc.ServerStream, message []byte, asked metadata.MD, err error,
) {
	sum := sha256.Sum256(message)
	got := call{
		Size:     len(message),
		SHA256:   hex.EncodeToString(sum[:]),
		Encoding: *ctx.Value(encodings{}).(*string),
		Metadata: asked,
		Ended:    status.Code(status.FromContextError(err).Err()).String(),
	}
	got.Path, _ = grpc.MethodFromServerStream(stream)
	if caller, ok := peer.FromContext(ctx); ok {
		got.Peer = caller.Addr.String()
	}
	if deadline, ok := ctx.Deadline(); ok {
		got.Deadline = time.Until(deadline).Seconds()
	}
	say(got)
}

// encodings notes each call's grpc-encoding in its context; gRPC hides it from handlers.
type encodings struct{}

func (encodings) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, encodings{}, new(string))
}

func (encodings) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if header, ok := event.(*stats.InHeader); ok {
		*ctx.Value(encodings{}).(*string) = header.Compression
	}
}

func (encodings) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (encodings) HandleConn(context.Context, stats.ConnStats) {}
