// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package histogram // import "github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"

// Descriptions of the metrics that are made both of a server's log and by a proxy
// in front of it: a Prometheus knows one description of a name.
const (
	RequestDuration = "How long a request took. With llamacpp.observer=proxy: from its arrival at the proxy to the end of its answer, the wait for a slot included. " +
		"Without: how long it held its slot, as the server measured it or, if error.type is set, from its first line in the log to its last; requests that a proxy of the same collector measured are not in it."
	TimeToFirstToken = "Time to the first token of the answer. With llamacpp.observer=proxy: from the request's arrival at the proxy, the wait for a slot included; of an answer that is not streamed, the first token came when its generation began. " +
		"Without: from the beginning of the prompt in its slot, as the server measured it, of requests that completed; requests that a proxy of the same collector measured are not in it."
	TimePerOutputToken = "Mean time of a request between two tokens after the first, of requests that completed with at least two. With llamacpp.observer=proxy: as they passed the proxy. " +
		"Without: as the server measured it; requests that a proxy of the same collector measured are not in it."
	QueueDuration = "How long a request that came through a proxy waited before the server began on its prompt; tokenizing and the network are included. With llamacpp.observer=proxy: the time to the first token, less the time of the prompt by the timings in its answer. " +
		"Without: by the server's log, of answers without timings, such as Anthropic's messages, and of requests whose client left."
)
