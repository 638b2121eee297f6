// The official Node client's Responses against a Spillway server; prints the same lines as openai.test.mjs.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import test from 'node:test';

const require = createRequire(path.join(process.env.SPILLWAY_NODE_TOOLS, 'package.json'));
const OpenAI = require('openai');

const model = process.env.SPILLWAY_MODEL;
const options = { baseURL: process.env.SPILLWAY_URL, apiKey: process.env.SPILLWAY_KEY, maxRetries: 0, timeout: 120_000 };
const client = new OpenAI(options);

const say = (label, value) => console.log(`${label} ${JSON.stringify(value)}`);
const saw = (request_id, usage) => say('usage', {
  request_id,
  usage: {
    prompt_tokens: usage.input_tokens,
    prompt_tokens_details: { cached_tokens: usage.input_tokens_details.cached_tokens },
    completion_tokens: usage.output_tokens,
    total_tokens: usage.total_tokens,
  },
});

async function answer(input, more = {}) {
  const response = await client.responses.create({ model, input, max_output_tokens: 24, temperature: 0, ...more });
  saw(response._request_id, response.usage);
  return response;
}

test('an answer and its stream', async () => {
  const response = await answer('Name three rivers.');
  assert.ok(response.output_text);
  const { data, request_id } = await client.responses
    .create({ model, input: 'Name three rivers.', max_output_tokens: 24, temperature: 0, stream: true })
    .withResponse();
  let text = '';
  let last = null;
  for await (const event of data) {
    if (event.type === 'response.output_text.delta') text += event.delta;
    last = event;
  }
  saw(request_id, last.response.usage);
  assert.equal(text, response.output_text);
});

test('a conversation that is kept', async () => {
  const first = await answer('My name is Ada.');
  const second = await answer('Who am I?', { previous_response_id: first.id });
  assert.equal(second.previous_response_id, first.id);
  assert.equal((await client.responses.retrieve(first.id)).id, first.id);
  const items = await client.responses.inputItems.list(second.id);
  assert.deepEqual(items.data.map((item) => item.content[0].text), ['Who am I?']);
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), { status: 404, code: 'response_not_found' });
});

test('a helper that parses', async () => {
  const response = await client.responses.parse({ model, input: 'Hi', max_output_tokens: 8 });
  saw(response._request_id, response.usage);
  assert.equal(response.output_parsed, null);
});

test('in the background', async () => {
  const body = { model, input: 'Tell a story.', max_output_tokens: 1400, background: true, ignore_eos: true };
  const { data: begun, request_id } = await client.responses.create(body).withResponse();
  assert.equal(begun.status, 'in_progress');
  await new Promise((resolve) => { setTimeout(resolve, 300); });
  const cancelled = await client.responses.cancel(begun.id);
  assert.equal(cancelled.status, 'cancelled');
  if (cancelled.usage.output_tokens > 0) saw(request_id, cancelled.usage);
});

test('leaving a stream', async () => {
  const body = { model, input: 'Tell a long story.', max_output_tokens: 1400, stream: true, ignore_eos: true };
  const { data, request_id } = await client.responses.create(body).withResponse();
  let chunks = 0;
  for await (const event of data) {
    chunks += event.type === 'response.output_text.delta' ? 1 : 0;
    if (chunks === 5) break;
  }
  say('left', { request_id, content_chunks: chunks });
});
