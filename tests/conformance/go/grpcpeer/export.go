package main

import (
	"context"
	"errors"
	"flag"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const batch = 512 // spans; the SDK's default, and a quarter of its queue

// export makes spans as Kubernetes' components do: SDK, batch processor, otlptracegrpc,
// with what the OTEL_ variables of the environment say.
func export(flags *flag.FlagSet, args []string) error {
	target := flags.String("target", "", "host:port")
	spans := flags.Int("spans", batch, "how many")
	retry := flags.Duration("retry", 5*time.Second, "the first wait before another try")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var mutex sync.Mutex
	var failures []error
	keep := func(err error) {
		mutex.Lock()
		defer mutex.Unlock()
		failures = append(failures, err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(keep))
	ctx := context.Background()
	exporter, err := otlptracegrpc.New(
		ctx,
		otlptracegrpc.WithEndpoint(*target),
		otlptracegrpc.WithInsecure(),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: true, InitialInterval: *retry,
			MaxInterval: 30 * time.Second, MaxElapsedTime: time.Minute,
		}),
	)
	if err != nil {
		return err
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter))
	tracer := provider.Tracer("grpcpeer")
	for number := range *spans {
		_, span := tracer.Start(ctx, "List")
		span.SetAttributes(attribute.Int("number", number))
		span.AddEvent("listed")
		span.End()
		if number%batch == batch-1 {
			keep(provider.ForceFlush(ctx))
		}
	}
	keep(provider.Shutdown(ctx))
	text := ""
	if err := errors.Join(failures...); err != nil {
		text = err.Error()
	}
	say(map[string]any{"spans": *spans, "error": text})
	return nil
}
