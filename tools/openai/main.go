// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command openai uses a server with OpenAI's own client for Go, and prints as JSON what
// that has understood of each answer, by the name of what was done:
//
//	go run . http://localhost:8080/v1
//
// It is a module of its own, so that its dependencies stay out of the product.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"
	"github.com/openai/openai-go/v3/responses"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "openai: want one argument, the base URL")
		os.Exit(2)
	}
	if err := json.NewEncoder(os.Stdout).Encode(run(context.Background(), os.Args[1])); err != nil {
		fmt.Fprintln(os.Stderr, "openai:", err)
		os.Exit(1)
	}
}

// failure is what the client makes of an error.
type failure struct {
	Status                     int
	Type, Code, Message, Other string
}

func failed(err error) failure {
	if e, ok := errors.AsType[*openai.Error](err); ok {
		return failure{Status: e.StatusCode, Type: e.Type, Code: e.Code, Message: e.Message}
	}
	return failure{Other: err.Error()}
}

// answer is one that says what it was read from.
type answer interface{ RawJSON() string }

// whole is what an answer is, or the error.
func whole[T answer](a T, err error) any {
	if err != nil {
		return failed(err)
	}
	return json.RawMessage(a.RawJSON())
}

// streamed are the events of a stream, or the first n of them if it is not 0: then it is
// left.
func streamed[T answer](s *ssestream.Stream[T], n int, leave func()) any {
	defer func() { _ = s.Close() }() // it has been read, or was left
	events := []any{}
	for s.Next() {
		events = append(events, json.RawMessage(s.Current().RawJSON()))
		if len(events) == n {
			leave()
			for s.Next() { // what it has read already
			}
			return append(events, errors.Is(s.Err(), context.Canceled))
		}
	}
	if s.Err() != nil {
		events = append(events, failed(s.Err()))
	}
	return events
}

func run(ctx context.Context, url string) map[string]any {
	client := openai.NewClient(option.WithBaseURL(url), option.WithAPIKey("none"),
		// The same question gives the same answer.
		option.WithJSONSet("cache_prompt", false), option.WithJSONSet("seed", 1), option.WithJSONSet("temperature", 0))
	bare := openai.NewClient(option.WithBaseURL(url), option.WithAPIKey("none"))
	chat := openai.ChatCompletionNewParams{
		Model: "tiny", MaxTokens: openai.Int(12),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.SystemMessage("be short"), openai.UserMessage("one two three")},
	}
	withUsage := chat
	withUsage.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
	wrong := chat
	wrong.Messages = nil
	completion := openai.CompletionNewParams{
		Model: "tiny", MaxTokens: openai.Int(9), Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("one two")},
	}
	response := responses.ResponseNewParams{
		Model: "tiny", MaxOutputTokens: openai.Int(7), Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("one two")},
	}
	long := chat
	long.MaxTokens = openai.Int(1000)
	left, leave := context.WithCancel(ctx)
	defer leave()

	out := map[string]any{}
	{
		a, err := client.Chat.Completions.New(ctx, chat)
		out["chat"] = whole(a, err)
	}
	out["chat, streamed"] = streamed(client.Chat.Completions.NewStreaming(ctx, chat), 0, nil)
	out["chat, streamed with usage"] = streamed(client.Chat.Completions.NewStreaming(ctx, withUsage), 0, nil)
	out["chat, left"] = streamed(client.Chat.Completions.NewStreaming(left, long), 3, leave)
	{
		a, err := client.Completions.New(ctx, completion)
		out["completion"] = whole(a, err)
	}
	out["completion, streamed"] = streamed(client.Completions.NewStreaming(ctx, completion), 0, nil)
	{
		a, err := client.Responses.New(ctx, response)
		out["response"] = whole(a, err)
	}
	out["response, streamed"] = streamed(client.Responses.NewStreaming(ctx, response), 0, nil)
	{
		a, err := client.Embeddings.New(ctx, openai.EmbeddingNewParams{Model: "tiny", Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"one", "two three"}}})
		out["embeddings"] = whole(a, err)
	}
	{
		a, err := bare.Models.List(ctx)
		if err != nil {
			out["models"] = failed(err)
		} else {
			out["models"] = json.RawMessage(a.RawJSON())
		}
	}
	{
		a, err := bare.Models.Get(ctx, "nobody")
		out["a model that is not there"] = whole(a, err)
	}
	{
		a, err := client.Chat.Completions.New(ctx, wrong)
		out["a wrong request"] = whole(a, err)
	}
	out["a wrong request, streamed"] = streamed(client.Chat.Completions.NewStreaming(ctx, wrong), 0, nil)
	return out
}
