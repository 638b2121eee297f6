// The official Node client against a Spillway server.
//
// Prints `usage {...}` for each usage that a client was given and `left {...}` for each stream that it left; the caller
// compares these lines with the bill.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import test from 'node:test';

// The client is installed in a folder of its own, so the import is resolved from there.
const require = createRequire(path.join(process.env.SPILLWAY_NODE_TOOLS, 'package.json'));
const OpenAI = require('openai');

const baseURL = process.env.SPILLWAY_URL;
const model = process.env.SPILLWAY_MODEL;
const apiKey = process.env.SPILLWAY_KEY;
const connect = (options = {}) => new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 120_000, ...options });
const client = connect();

const say = (label, value) => console.log(`${label} ${JSON.stringify(value)}`);
const saw = (request_id, usage) => say('usage', { request_id, usage });
const user = (content) => [{ role: 'user', content }];

async function answer(content, options = {}) {
  const reply = await client.chat.completions.create({ model, messages: user(content), max_tokens: 24, ...options });
  saw(reply._request_id, reply.usage);
  return reply;
}

async function streamed(content, options = {}) {
  const body = {
    model, messages: user(content), max_tokens: 24, stream: true, stream_options: { include_usage: true }, ...options,
  };
  const { data, request_id } = await client.chat.completions.create(body).withResponse();
  const texts = {};
  const reasons = {};
  let listed = 0;
  let usage = null;
  for await (const chunk of data) {
    for (const choice of chunk.choices) {
      texts[choice.index] = (texts[choice.index] ?? '') + (choice.delta.content ?? '');
      if (choice.finish_reason) reasons[choice.index] = choice.finish_reason;
      listed += choice.logprobs?.content?.length ?? 0;
    }
    if (chunk.usage) {
      assert.deepEqual(chunk.choices, [], 'usage came beside choices');
      assert.equal(usage, null, 'usage came twice');
      usage = chunk.usage;
    }
  }
  assert.ok(usage, 'no usage');
  saw(request_id, usage);
  return { texts, reasons, listed, usage };
}

test('an answer', async () => {
  const reply = await answer('Name three rivers.', { temperature: 0 });
  assert.equal(reply.object, 'chat.completion');
  assert.equal(reply.choices[0].message.role, 'assistant');
  assert.ok(reply.choices[0].message.content);
  assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
});

test('a stream says the same', async () => {
  const reply = await answer('Name three rivers.', { temperature: 0 });
  const { texts, reasons } = await streamed('Name three rivers.', { temperature: 0 });
  assert.equal(texts[0], reply.choices[0].message.content);
  assert.equal(reasons[0], reply.choices[0].finish_reason);
});

test('the stream helper', async () => {
  // The helper hides the response, so its request id is picked up below it.
  let requestId;
  const listening = connect({
    fetch: async (...args) => {
      const response = await fetch(...args);
      requestId = response.headers.get('x-request-id');
      return response;
    },
  });
  const stream = listening.chat.completions.stream({
    model, messages: user('Hi'), max_tokens: 8, stream_options: { include_usage: true },
  });
  let deltas = 0;
  stream.on('content', () => { deltas += 1; });
  const final = await stream.finalChatCompletion();
  assert.ok(deltas > 0);
  assert.ok(final.choices[0].message.content);
  saw(requestId, final.usage);
});

test('several choices', async () => {
  const reply = await answer('Name three rivers.', { n: 3, temperature: 1, seed: 4, max_tokens: 8 });
  assert.deepEqual(reply.choices.map((c) => c.index), [0, 1, 2]);
  const { texts, reasons } = await streamed('Name three rivers.', { n: 2, temperature: 1, seed: 4, max_tokens: 8 });
  assert.deepEqual(Object.keys(texts), ['0', '1']);
  assert.deepEqual(Object.keys(reasons), ['0', '1']);
});

test('stop strings', async () => {
  const whole = (await answer('Name three rivers.', { temperature: 0 })).choices[0].message.content;
  const stop = whole.slice(6, 12);
  const expected = whole.split(stop)[0];
  const reply = await answer('Name three rivers.', { temperature: 0, stop });
  assert.equal(reply.choices[0].message.content, expected);
  assert.equal(reply.choices[0].finish_reason, 'stop');
  const { texts } = await streamed('Name three rivers.', { temperature: 0, stop: ['@@', stop] });
  assert.equal(texts[0], expected);
});

test('logprobs', async () => {
  const options = { temperature: 0, logprobs: true, top_logprobs: 2, max_tokens: 6, ignore_eos: true };
  const reply = await answer('Name three rivers.', options);
  const { content } = reply.choices[0].logprobs;
  assert.equal(content.length, reply.usage.completion_tokens);
  assert.equal(Buffer.from(content.flatMap((e) => e.bytes)).toString(), reply.choices[0].message.content);
  const { listed, usage } = await streamed('Name three rivers.', options);
  assert.equal(listed, usage.completion_tokens);
});

test('seeds', async () => {
  const text = async (seed) =>
    (await answer('Name three rivers.', { temperature: 1, seed })).choices[0].message.content;
  const first = await text(11);
  assert.equal(first, await text(11));
  assert.notEqual(first, await text(12));
});

test('text completions', async () => {
  const body = { model, prompt: 'The capital of France is', max_tokens: 4, temperature: 0 };
  const reply = await client.completions.create(body);
  saw(reply._request_id, reply.usage);
  assert.match(reply.choices[0].text, /Paris/);
});

test('models', async () => {
  const ids = [];
  for await (const entry of client.models.list()) ids.push(entry.id);
  assert.ok(ids.includes(model), `${ids}`);
  assert.equal((await client.models.retrieve(model)).id, model);
});

test('headers', async () => {
  const body = { model, messages: user('Hi'), max_tokens: 2 };
  const { data, response, request_id } = await client.chat.completions.create(body).withResponse();
  saw(request_id, data.usage);
  for (const kind of ['requests', 'tokens']) {
    for (const name of ['limit', 'remaining', 'reset']) {
      assert.ok(response.headers.get(`x-ratelimit-${name}-${kind}`), `x-ratelimit-${name}-${kind}`);
    }
  }
  assert.ok(response.headers.get('openai-processing-ms'));
});

async function fails(kind, code, call) {
  await assert.rejects(call, (error) => {
    assert.equal(error.constructor, kind, `${error.constructor.name} instead of ${kind.name}: ${error}`);
    assert.equal(error.code, code, `${error}`);
    assert.ok(error.requestID, 'no request id');
    return true;
  });
}

test('error classes', async () => {
  const ask = (options = {}, from = client) =>
    () => from.chat.completions.create({ model, messages: user('Hi'), max_tokens: 1, ...options });
  await fails(OpenAI.AuthenticationError, 'invalid_api_key', ask({}, connect({ apiKey: 'sk-sw-wrong' })));
  await fails(OpenAI.BadRequestError, 'decimal_above_max_value', ask({ temperature: 3 }));
  await fails(OpenAI.BadRequestError, 'unknown_parameter', ask({ nonsense: 1 }));
  await fails(OpenAI.BadRequestError, 'context_length_exceeded', ask({ messages: user('word '.repeat(9000)) }));
  await fails(OpenAI.NotFoundError, 'model_not_found', ask({ model: 'none' }));

  const limited = connect({ apiKey: process.env.SPILLWAY_KEY_LIMITED });
  const reply = await ask({}, limited)();
  saw(reply._request_id, reply.usage);
  await fails(OpenAI.RateLimitError, 'rate_limit_exceeded', ask({}, limited));
  const poor = connect({ apiKey: process.env.SPILLWAY_KEY_POOR, maxRetries: 2 });
  await fails(OpenAI.RateLimitError, 'insufficient_quota', ask({}, poor));
});

test('leaving', async () => {
  for (const wanted of [1, 7, 30]) {
    const body = { model, messages: user('Tell a long story.'), max_tokens: 1500, stream: true, ignore_eos: true };
    const { data, request_id } = await client.chat.completions.create(body).withResponse();
    let content_chunks = 0;
    for await (const chunk of data) {
      content_chunks += chunk.choices[0]?.delta.content ? 1 : 0;
      if (content_chunks === wanted) break;
    }
    data.controller.abort();
    say('left', { request_id, content_chunks });
  }
});

test('32 streams at once', async () => {
  const ask = (i) => streamed(`Tell me about the number ${i}.`, { max_tokens: 12, temperature: 0 });
  const together = await Promise.all(Array.from({ length: 32 }, (_, i) => ask(i)));
  for (const { texts } of together) assert.ok(texts[0]);
  // What a stream says must not depend on the others.
  assert.deepEqual(together[5].texts, (await ask(5)).texts);
});
