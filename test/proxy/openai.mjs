// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Uses a server with OpenAI's own client for JavaScript, and prints as JSON what that has
// understood of each answer, by the name of what was done:
//
//	node openai.mjs http://localhost:8080/v1
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none" });

// The same question gives the same answer.
const exact = { model: "tiny", cache_prompt: false, seed: 1, temperature: 0 };
const messages = [
	{ role: "system", content: "be short" },
	{ role: "user", content: "one two three" },
];
const chat = { ...exact, max_tokens: 12, messages };
const completion = { ...exact, max_tokens: 9, prompt: "one two" };
const response = { ...exact, max_output_tokens: 7, input: "one two" };
const wrong = { ...exact, max_tokens: 12 };

/** The events of a stream. */
async function streamed(promise) {
	const events = [];
	for await (const event of await promise) events.push(event);
	return events;
}

/** The first events of a stream that is left then. */
async function left() {
	const stream = await client.chat.completions.create({ ...chat, max_tokens: 1000, stream: true });
	const events = [];
	for await (const event of stream) {
		events.push(event);
		if (events.length === 3) stream.controller.abort();
		if (events.length >= 3) break;
	}
	return [...events, stream.controller.signal.aborted];
}

const steps = {
	chat: () => client.chat.completions.create(chat),
	"chat, streamed": () => streamed(client.chat.completions.create({ ...chat, stream: true })),
	"chat, streamed with usage": () => streamed(client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } })),
	"chat, put together": async () => (await client.chat.completions.stream({ ...chat }).finalChatCompletion()).choices,
	"chat, left": left,
	completion: () => client.completions.create(completion),
	"completion, streamed": () => streamed(client.completions.create({ ...completion, stream: true })),
	response: () => client.responses.create(response),
	"response, streamed": () => streamed(client.responses.create({ ...response, stream: true })),
	embeddings: () => client.embeddings.create({ model: "tiny", input: ["one", "two three"] }),
	models: async () => (await client.models.list()).data,
	"a model that is not there": () => client.models.retrieve("nobody"),
	"a wrong request": () => client.chat.completions.create(wrong),
	"a wrong request, streamed": () => streamed(client.chat.completions.create({ ...wrong, stream: true })),
};

const out = {};
for (const [name, step] of Object.entries(steps)) {
	try {
		out[name] = await step();
	} catch (e) {
		out[name] = { class: e.constructor.name, status: e.status, type: e.type, code: e.code, message: e.message };
	}
}
console.log(JSON.stringify(out));
