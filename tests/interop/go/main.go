// A program that traces itself with Jaeger's client for Go. See ../apps/reports.md for what it is told and says.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/opentracing/opentracing-go"
	"github.com/opentracing/opentracing-go/log"
	"github.com/uber/jaeger-client-go"
	"github.com/uber/jaeger-client-go/config"
)

func number(name string) int {
	value, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		panic(name + ": " + err.Error())
	}
	return value
}

func main() {
	agent := os.Getenv("AGENT_HOST") + ":"
	rate, seconds := number("RATE"), number("SECONDS")
	settings := config.Configuration{
		ServiceName: os.Getenv("SERVICE"),
		Tags:        []opentracing.Tag{{Key: "team", Value: "blue"}},
		Sampler: &config.SamplerConfig{
			Type:                    jaeger.SamplerTypeRemote,
			Param:                   0,
			SamplingServerURL:       "http://" + agent + os.Getenv("SAMPLING_PORT") + "/sampling",
			SamplingRefreshInterval: 100 * time.Millisecond,
		},
		Reporter: &config.ReporterConfig{
			QueueSize:           10 * (rate + 100),
			BufferFlushInterval: time.Second,
			LocalAgentHostPort:  agent + os.Getenv("AGENT_PORT"),
		},
	}
	tracer, closer, err := settings.NewTracer()
	if err != nil {
		panic(err)
	}
	sampled := func() bool {
		span := tracer.StartSpan("probe")
		context := span.Context().(jaeger.SpanContext)
		jaegerSpan := span.(*jaeger.Span)
		jaegerSpan.SetOperationName("probe")
		return context.IsSampled()
	}
	for !sampled() {
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("strategy")

	pair := func() string {
		root := tracer.StartSpan("parent", opentracing.Tags{"n": int64(1), "f": 0.5, "b": true, "s": "text"})
		child := tracer.StartSpan("child",
			opentracing.ChildOf(root.Context()), opentracing.FollowsFrom(root.Context()))
		child.LogFields(log.String("event", "step"), log.Int("k", 2))
		child.SetTag("error", true)
		child.Finish()
		root.Finish()
		return root.Context().(jaeger.SpanContext).TraceID().String()
	}
	trace, spans := pair(), 2
	start := time.Now()
	for tick := 1; tick <= 100*seconds; tick++ {
		for spans < 2+rate*tick/100 {
			pair()
			spans += 2
		}
		time.Sleep(time.Until(start.Add(time.Duration(tick) * 10 * time.Millisecond)))
	}
	if err := closer.Close(); err != nil {
		panic(err)
	}
	fmt.Println("trace", trace)
	fmt.Println("spans", spans)
}
