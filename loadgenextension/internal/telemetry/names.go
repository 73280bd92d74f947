// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"go.opentelemetry.io/otel/attribute"
	conventions "go.opentelemetry.io/otel/semconv/v1.41.0" // the last with those of GenAI

	"github.com/llamatelemetry/otelcol-llamacpp/internal/timings"
)

// Bucket bounds. Those of seconds and tokens are the ones that the GenAI
// conventions advise. The time of one token and the load generator's own lag are
// shorter.
var (
	seconds      = doubling(0.01, 14)
	shortSeconds = doubling(0.001, 14)
	lagSeconds   = doubling(0.0001, 16)
	tokens       = []float64{1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864}
)

func doubling(from float64, n int) []float64 {
	bounds := make([]float64, n)
	for i := range bounds {
		bounds[i] = from
		from *= 2
	}
	return bounds
}

// A distribution is a metric that is a histogram.
type distribution struct {
	name, unit, description string
	bounds                  []float64
}

// The metrics. Their names are the contract with dashboards and alerts, and are
// defined only here.
var (
	operationDuration  = distribution{"gen_ai.client.operation.duration", "s", "Time from when a request was sent to the last byte of its answer.", seconds}
	timeToFirstChunk   = distribution{"gen_ai.client.operation.time_to_first_chunk", "s", "Time from when a request was sent to the first chunk of the answer, one that only names the role included.", seconds}
	timePerOutputChunk = distribution{"gen_ai.client.operation.time_per_output_chunk", "s", "Time from one chunk with text to the next.", seconds}
	tokenUsage         = distribution{"gen_ai.client.token.usage", "{token}", "Tokens of a request, as the server counted them.", tokens}

	requestDuration    = distribution{"loadgen.request.duration", "s", "Time from when a request was due to the last byte of its answer: what a user would have felt.", seconds}
	timeToFirstToken   = distribution{"loadgen.request.time_to_first_token", "s", "Time from when a request was due to the first token, of reasoning or of the answer.", seconds}
	timeToFirstAnswer  = distribution{"loadgen.request.time_to_first_answer", "s", "Time from when a request was due to the first token of the answer itself.", seconds}
	timePerOutputToken = distribution{"loadgen.request.time_per_output_token", "s", "Time from the first token to the last, divided by the tokens after the first.", shortSeconds}
	scheduleLag        = distribution{"loadgen.schedule.lag", "s", "Time from when a request was due to when it was sent: the generator's own delay.", lagSeconds}

	serverQueue      = distribution{"loadgen.server.queue.duration", "s", "What remains of a request's time after the server's own timings: its queue and the network.", seconds}
	serverPrompt     = distribution{"loadgen.server.prompt.duration", "s", "Time the server took to process the prompt, by its own timings.", seconds}
	serverPrediction = distribution{"loadgen.server.prediction.duration", "s", "Time the server took to generate the answer after the first token, by its own timings.", seconds}
)

// An instrument is a metric that is not a histogram.
type instrument struct{ name, unit, description string }

var (
	requests         = instrument{"loadgen.requests", "{request}", "Requests that ended, by outcome; those that could not be sent in time were dropped."}
	requestsInFlight = instrument{"loadgen.requests.in_flight", "{request}", "Requests that were sent and have not ended."}
	rateTarget       = instrument{"loadgen.rate.target", "{request}/s", "Rate at which requests are due; a closed loop has none."}
	goodput          = instrument{"loadgen.goodput", "{request}", "Requests that met the objective."}
	tokensTotal      = instrument{"loadgen.tokens", "{token}", "Tokens as the server counted them. Those from its cache are part of the input."}
)

// Attributes that the conventions do not have.
const (
	profileKey = attribute.Key("loadgen.profile")
	outcomeKey = attribute.Key("loadgen.outcome")
	sloKey     = attribute.Key("loadgen.slo")
)

// Values of gen_ai.token.type.
var (
	typeInput  = conventions.GenAITokenTypeInput
	typeOutput = conventions.GenAITokenTypeOutput
	typeCached = conventions.GenAITokenTypeKey.String("cached")
)

// Events and attributes of a request's span.
const (
	eventFirstChunk  = "loadgen.first_chunk"
	eventFirstToken  = "loadgen.first_token" //nolint:gosec // No secret: a token of text.
	eventFirstAnswer = "loadgen.first_answer"

	scheduleLagKey      = attribute.Key("loadgen.schedule.lag")
	serverPromptKey     = attribute.Key("loadgen.server.prompt.duration")
	serverPredictionKey = attribute.Key("loadgen.server.prediction.duration")
	serverQueueKey      = attribute.Key("loadgen.server.queue.duration")

	// timingsKey is on the span that the connector llamacpplog makes of the request, too.
	timingsKey = attribute.Key(timings.Attribute)
)
