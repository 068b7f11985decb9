package main

import (
	"io"

	"github.com/golang/snappy"
	"google.golang.org/grpc/encoding"
)

// framed is gRPC's "snappy" as the OpenTelemetry Collector has it: the framing format.
type framed struct{}

func init() { encoding.RegisterCompressor(framed{}) }

func (framed) Name() string { return "snappy" }

func (framed) Compress(w io.Writer) (io.WriteCloser, error) {
	return snappy.NewBufferedWriter(w), nil
}

func (framed) Decompress(r io.Reader) (io.Reader, error) { return snappy.NewReader(r), nil }
