// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import "github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"

// distribution is a metric that is a histogram.
type distribution struct {
	name, description, unit string
	bounds                  []float64
	enabled                 func(*MetricsConfig) bool
}

// The bounds of the GenAI conventions, where they have some.
var (
	durationBounds   = histogram.DurationBounds()
	firstTokenBounds = histogram.FirstTokenBounds()
	perTokenBounds   = histogram.PerTokenBounds()
	tokenBounds      = []float64{1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864}
	speedBounds      = []float64{1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 10000, 20000, 50000}
	ratioBounds      = []float64{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1}
)

var (
	requestDuration = &distribution{
		name:        "gen_ai.server.request.duration",
		description: histogram.RequestDuration,
		unit:        "s", bounds: durationBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestDuration.Enabled },
	}
	timeToFirstToken = &distribution{
		name:        "gen_ai.server.time_to_first_token",
		description: histogram.TimeToFirstToken,
		unit:        "s", bounds: firstTokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.TimeToFirstToken.Enabled },
	}
	timePerOutputToken = &distribution{
		name:        "gen_ai.server.time_per_output_token",
		description: histogram.TimePerOutputToken,
		unit:        "s", bounds: perTokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.TimePerOutputToken.Enabled },
	}
	queueDuration = &distribution{
		name:        "llamacpp.request.queue.duration",
		description: histogram.QueueDuration,
		unit:        "s", bounds: firstTokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestQueueDuration.Enabled },
	}
	requestTokens = &distribution{
		name:        "llamacpp.request.tokens",
		description: "Tokens of a request that completed. Input is its whole prompt, with the tokens that came from the cache unless the context was shifted; output is the answer.",
		unit:        "{token}", bounds: tokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestTokens.Enabled },
	}
	requestCachedTokens = &distribution{
		name:        "llamacpp.request.cached_tokens",
		description: "Tokens of a request's prompt that came from the cache, of requests that completed and whose log says it.",
		unit:        "{token}", bounds: tokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestCachedTokens.Enabled },
	}
	requestPromptSpeed = &distribution{
		name:        "llamacpp.request.prompt.speed",
		description: "Tokens of a request's prompt computed per second, without cached ones.",
		unit:        "{token}/s", bounds: speedBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestPromptSpeed.Enabled },
	}
	requestGenerationSpeed = &distribution{
		name:        "llamacpp.request.generation.speed",
		description: "Tokens of a request generated per second after the first, of requests that completed with at least two.",
		unit:        "{token}/s", bounds: speedBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestGenerationSpeed.Enabled },
	}
	requestDraftAcceptance = &distribution{
		name:        "llamacpp.request.draft.acceptance",
		description: "Part of a request's drafted tokens that were accepted, of requests with speculative decoding.",
		unit:        "1", bounds: ratioBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestDraftAcceptance.Enabled },
	}
)

// newSeries returns an empty series with the distribution's buckets or, if
// exponential is not nil, with exponential ones.
func newSeries(d *distribution, exponential *ExponentialConfig) *histogram.Series {
	size := int32(0)
	if exponential != nil {
		size = exponential.MaxSize
	}
	return histogram.NewSeries(d.bounds, size)
}
