// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command kafka is a broker for tests, kfake of franz-go, and a consumer of it:
// it posts the value of every record to an OTLP backend, each topic to a path of
// its own, and only when that has answered goes on. It prints the broker's address.
//
//	go run . -port 9092 -topic llamacpp_metrics=http://localhost:4318/v1/metrics
//
// It is a module of its own, so that its dependencies stay out of the product.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	port := flag.Int("port", 0, "where the broker listens; 0: any")
	partitions := flag.Int("partitions", 3, "partitions of each topic")
	targets := map[string]string{}
	flag.Func("topic", "`topic=URL`: a topic, and where its records go", func(s string) error {
		topic, url, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("%s: want topic=URL", s)
		}
		targets[topic] = url
		return nil
	})
	flag.Parse()
	if err := run(*port, *partitions, targets); err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
}

func run(port, partitions int, targets map[string]string) error {
	options := []kfake.Opt{kfake.NumBrokers(1), kfake.Ports(port)}
	var topics []string
	for topic := range targets {
		options = append(options, kfake.SeedTopics(int32(partitions), topic))
		topics = append(topics, topic)
	}
	broker, err := kfake.NewCluster(options...)
	if err != nil {
		return fmt.Errorf("start the broker: %w", err)
	}
	defer broker.Close()
	consumer, err := kgo.NewClient(kgo.SeedBrokers(broker.ListenAddrs()...), kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return fmt.Errorf("start the consumer: %w", err)
	}
	defer consumer.Close()
	fmt.Println(broker.ListenAddrs()[0])
	for {
		fetched := consumer.PollFetches(context.Background())
		for _, e := range fetched.Errors() {
			fmt.Fprintln(os.Stderr, "kafka: fetch:", e.Topic, e.Partition, e.Err)
		}
		for _, r := range fetched.Records() {
			for post(targets[r.Topic], r) != nil {
				time.Sleep(100 * time.Millisecond)
			}
		}
	}
}

// post also tells the backend which partition and key the record had.
func post(url string, r *kgo.Record) error {
	q, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(r.Value))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/x-protobuf")
	q.Header.Set("X-Partition", fmt.Sprint(r.Partition))
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	return nil
}
