// The official Node clients of OpenAI and Anthropic: tools, structured answers, streams and embeddings.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import test from 'node:test';

const require = createRequire(path.join(process.env.SPILLWAY_NODE_TOOLS, 'package.json'));
const OpenAI = require('openai');
const Anthropic = require('@anthropic-ai/sdk');

const baseURL = process.env.SPILLWAY_URL;
const model = process.env.SPILLWAY_MODEL;
const embedder = process.env.SPILLWAY_EMBEDDER;
const apiKey = process.env.SPILLWAY_KEY;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 120_000 });
const anthropic = new Anthropic({ baseURL: baseURL.replace(/\/v1$/, ''), apiKey, maxRetries: 0, timeout: 120_000 });

const schema = {
  type: 'object',
  properties: { city: { type: 'string', enum: ['Paris', 'Rome'] }, unit: { type: 'string', enum: ['C', 'F'] } },
  required: ['city', 'unit'],
  additionalProperties: false,
};
const name = 'get_weather';
const tools = [{ type: 'function', function: { name, parameters: schema, strict: true } }];
const messages = [{ role: 'user', content: 'What is the weather in Rome, in C?' }];
const options = { model, messages, temperature: 0, max_tokens: 120 };

function isWeather(value) {
  const weather = typeof value === 'string' ? JSON.parse(value) : value;
  assert.deepEqual(Object.keys(weather).sort(), ['city', 'unit']);
  assert.ok(['Paris', 'Rome'].includes(weather.city) && ['C', 'F'].includes(weather.unit), JSON.stringify(weather));
}

test('a call and its answer', async () => {
  const reply = await client.chat.completions.create({ ...options, tools, tool_choice: 'required', parallel_tool_calls: false });
  const { message, finish_reason } = reply.choices[0];
  assert.equal(finish_reason, 'tool_calls');
  isWeather(message.tool_calls[0].function.arguments);
  const answer = { role: 'tool', tool_call_id: message.tool_calls[0].id, content: '20 degrees' };
  const final = await client.chat.completions.create({ ...options, messages: [...messages, message, answer], tools, tool_choice: 'none' });
  assert.ok(final.choices[0].message.content);
});

test('a stream of a call', async () => {
  const stream = client.chat.completions.stream({ ...options, tools, tool_choice: { type: 'function', function: { name } } });
  let pieces = 0;
  stream.on('tool_calls.function.arguments.delta', () => { pieces += 1; });
  const final = await stream.finalChatCompletion();
  isWeather(final.choices[0].message.tool_calls[0].function.arguments);
  assert.ok(pieces > 2, `${pieces} pieces`);
});

test('the runner of tools', async () => {
  const calls = [];
  const get_weather = { name, parameters: schema, parse: JSON.parse, function: (weather) => { calls.push(weather); return '20 degrees'; } };
  const runner = client.chat.completions.runTools(
    { ...options, tools: [{ type: 'function', function: get_weather }], tool_choice: { type: 'function', function: { name } } },
    { maxChatCompletions: 1 },
  );
  await runner.done();
  isWeather(calls[0]);
});

test('an answer in a form', async () => {
  const response_format = { type: 'json_schema', json_schema: { name: 'w', schema, strict: true } };
  isWeather((await client.chat.completions.create({ ...options, response_format })).choices[0].message.content);
  const parsed = await client.chat.completions.parse({ ...options, response_format });
  assert.ok(parsed.choices[0].message.content);
});

test('a response in a form, and one that calls', async () => {
  const body = { model, input: messages[0].content, temperature: 0, max_output_tokens: 120 };
  const response = await client.responses.create({ ...body, text: { format: { type: 'json_schema', name: 'w', schema, strict: true } } });
  isWeather(response.output_text);
  const flat = { type: 'function', name, parameters: schema, strict: true };
  const stream = await client.responses.create({ ...body, tools: [flat], tool_choice: 'required', stream: true });
  let text = '';
  let last;
  for await (const event of stream) {
    if (event.type === 'response.function_call_arguments.delta') text += event.delta;
    last = event;
  }
  const call = last.response.output.find((item) => item.type === 'function_call');
  isWeather(call.arguments);
  assert.ok(text.startsWith(call.arguments));
});

test('embeddings', async () => {
  const reply = await client.embeddings.create({ model: embedder, input: ['It is sunny.', 'He drives.'] });
  assert.deepEqual(reply.data.map((item) => item.embedding.length), [384, 384]);
  const floats = await client.embeddings.create({ model: embedder, input: 'It is sunny.', encoding_format: 'float' });
  floats.data[0].embedding.forEach((value, i) => assert.ok(Math.abs(value - reply.data[0].embedding[i]) < 1e-6));
});

test('messages: an answer, a stream, a call', async () => {
  const body = { model, messages, max_tokens: 60 };
  const reply = await anthropic.messages.create(body);
  assert.ok(reply.content[0].text);
  const streamed = anthropic.messages.stream(body);
  let text = '';
  streamed.on('text', (delta) => { text += delta; });
  assert.equal((await streamed.finalMessage()).content[0].text, text);
  const own = [{ name, description: 'Weather of a city', input_schema: schema }];
  const calling = anthropic.messages.stream({ ...body, max_tokens: 120, tools: own, tool_choice: { type: 'tool', name } });
  const final = await calling.finalMessage();
  const call = final.content.find((block) => block.type === 'tool_use');
  assert.equal(final.stop_reason, 'tool_use');
  isWeather(call.input);
  const result = { type: 'tool_result', tool_use_id: call.id, content: '20 degrees' };
  const turns = [...messages, { role: 'assistant', content: final.content }, { role: 'user', content: [result] }];
  const after = await anthropic.messages.create({ ...body, messages: turns, tools: own, tool_choice: { type: 'none' } });
  assert.ok(after.content[0].text);
  assert.ok((await anthropic.messages.countTokens({ model, messages })).input_tokens > 0);
});
