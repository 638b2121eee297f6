// The AI SDK with its provider for servers that speak OpenAI.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import test from 'node:test';

const require = createRequire(path.join(process.env.SPILLWAY_NODE_TOOLS, 'package.json'));
const { embedMany, generateObject, generateText, jsonSchema, stepCountIs, streamObject, streamText, tool } = require('ai');
const { createOpenAICompatible } = require('@ai-sdk/openai-compatible');
const { z } = require('zod');

const provider = createOpenAICompatible({
  name: 'spillway',
  baseURL: process.env.SPILLWAY_URL,
  apiKey: process.env.SPILLWAY_KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = provider(process.env.SPILLWAY_MODEL);
const options = { model, maxOutputTokens: 120, temperature: 0, maxRetries: 0 };
const prompt = 'What is the weather in Rome, in C?';
const schema = z.object({ city: z.enum(['Paris', 'Rome']), unit: z.enum(['C', 'F']) });

test('an answer and its stream', async () => {
  const { text, usage } = await generateText({ ...options, prompt });
  assert.ok(text && usage.outputTokens > 0, JSON.stringify(usage));
  const stream = streamText({ ...options, prompt });
  let streamed = '';
  for await (const piece of stream.textStream) streamed += piece;
  assert.equal(streamed, text);
  assert.equal((await stream.usage).outputTokens, usage.outputTokens);
});

test('tools', async () => {
  const calls = [];
  const tools = { get_weather: tool({ description: 'Weather of a city', inputSchema: schema, execute: (input) => { calls.push(input); return '20 degrees'; } }) };
  const { toolCalls, finishReason } = await generateText({ ...options, prompt, tools, toolChoice: 'required', stopWhen: stepCountIs(1) });
  schema.parse(toolCalls[0].input);
  assert.deepEqual(calls[0], toolCalls[0].input);
  assert.equal(finishReason, 'tool-calls');
  const stream = streamText({ ...options, prompt, tools, toolChoice: { type: 'tool', toolName: 'get_weather' }, stopWhen: stepCountIs(1) });
  const kinds = [];
  for await (const part of stream.fullStream) kinds.push(part.type);
  assert.ok(kinds.filter((kind) => kind === 'tool-input-delta').length > 2, kinds.join());
  assert.ok(kinds.includes('tool-result'), kinds.join());
});

test('objects', async () => {
  schema.parse((await generateObject({ ...options, prompt, schema })).object);
  const stream = streamObject({ ...options, prompt, schema: jsonSchema(z.toJSONSchema(schema)) });
  let pieces = 0;
  for await (const piece of stream.partialObjectStream) pieces += piece ? 1 : 0;
  schema.parse(await stream.object);
  assert.ok(pieces > 1, `${pieces} pieces`);
});

test('embeddings', async () => {
  const embedder = provider.textEmbeddingModel(process.env.SPILLWAY_EMBEDDER);
  const { embeddings } = await embedMany({ model: embedder, values: ['It is sunny.', 'He drives.'], maxRetries: 0 });
  assert.deepEqual(embeddings.map((vector) => vector.length), [384, 384]);
});

test('errors', async () => {
  const other = provider('none');
  await assert.rejects(generateText({ ...options, model: other, prompt }), (error) => error.statusCode === 404);
});
