/**
 * A model provider that says what a test scripted: OpenAI's /v1/responses and /v1/chat/completions and Anthropic's
 * /v1/messages, whole or streamed. It keeps what it was asked.
 */

import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What the model says in one turn: calls of tools, or a text. */
export type Turn = { calls: { name: string; input: unknown }[] } | { text: string };
type Json = Record<string, any>;

export class FakeModels {
  /** Bodies of the requests, as parsed JSON; `path` is added. */
  readonly asked: Json[] = [];
  #server: Server;
  #turns: (Turn | ((request: Json) => Turn))[];
  #ids = 0;

  private constructor(turns: (Turn | ((request: Json) => Turn))[]) {
    this.#turns = turns;
    this.#server = createServer((request, response) => {
      let body = "";
      request.setEncoding("utf8").on("data", (text: string) => (body += text));
      request.on("end", () => this.#answer(request.url ?? "", body, response));
    });
  }

  static async start(...turns: (Turn | ((request: Json) => Turn))[]): Promise<FakeModels> {
    const models = new FakeModels(turns);
    await new Promise<void>((done) => models.#server.listen(0, "127.0.0.1", done));
    return models;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }

  #answer(path: string, body: string, response: ServerResponse): void {
    const request = { path, ...(JSON.parse(body) as Json) } as Json;
    this.asked.push(request);
    const next = this.#turns.shift();
    const dialect = DIALECTS[path.split("?")[0]!];
    if (!next || !dialect) {
      response.writeHead(400, { "Content-Type": "application/json" }).end(JSON.stringify({ error: { message: `nothing was scripted for ${path}`, type: "invalid_request_error" } }));
      return;
    }
    const whole = dialect.whole(typeof next === "function" ? next(request) : next, () => `${++this.#ids}`, String(request["model"]));
    if (!request["stream"]) {
      response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(whole));
      return;
    }
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    for (const event of dialect.events(whole)) response.write((event["type"] ? `event: ${event["type"]}\n` : "") + `data: ${JSON.stringify(event)}\n\n`);
    response.end(dialect.end);
  }
}

interface Dialect {
  whole(turn: Turn, id: () => string, model: string): Json;
  events(whole: Json): Json[];
  end?: string;
}

const halves = (text: string): string[] => [text.slice(0, text.length >> 1), text.slice(text.length >> 1)];

const responses: Dialect = {
  whole: (turn, id, model) => ({
    id: `resp_${id()}`, object: "response", created_at: 1, status: "completed", model, error: null, incomplete_details: null, instructions: null,
    metadata: {}, parallel_tool_calls: true, temperature: 1, tool_choice: "auto", tools: [], top_p: 1,
    output: "text" in turn
      ? [{ type: "message", id: `msg_${id()}`, status: "completed", role: "assistant", content: [{ type: "output_text", text: turn.text, annotations: [] }] }]
      : turn.calls.map(({ name, input }) => ({ type: "function_call", id: `fc_${id()}`, call_id: `call_${id()}`, name, arguments: JSON.stringify(input), status: "completed" })),
    usage: { input_tokens: 1, input_tokens_details: { cached_tokens: 0 }, output_tokens: 1, output_tokens_details: { reasoning_tokens: 0 }, total_tokens: 2 },
  }),
  events: (whole) => {
    const list: Json[] = [{ type: "response.created", response: { ...whole, status: "in_progress", output: [], usage: null } }];
    (whole["output"] as Json[]).forEach((item, output_index) => {
      const at = { item_id: item["id"], output_index };
      const began = item["type"] === "message" ? { ...item, status: "in_progress", content: [] } : { ...item, status: "in_progress", arguments: "" };
      list.push({ type: "response.output_item.added", output_index, item: began });
      if (item["type"] === "message") {
        const { text } = item["content"][0];
        list.push({ type: "response.content_part.added", ...at, content_index: 0, part: { type: "output_text", text: "", annotations: [] } });
        list.push(...halves(text).map((delta) => ({ type: "response.output_text.delta", ...at, content_index: 0, delta })));
        list.push({ type: "response.output_text.done", ...at, content_index: 0, text }, { type: "response.content_part.done", ...at, content_index: 0, part: item["content"][0] });
      } else {
        list.push(...halves(item["arguments"]).map((delta) => ({ type: "response.function_call_arguments.delta", ...at, delta })));
        list.push({ type: "response.function_call_arguments.done", ...at, arguments: item["arguments"] });
      }
      list.push({ type: "response.output_item.done", output_index, item });
    });
    return [...list, { type: "response.completed", response: whole }].map((event, sequence_number) => ({ ...event, sequence_number }));
  },
};

const completions: Dialect = {
  whole: (turn, id, model) => ({
    id: `chatcmpl-${id()}`, object: "chat.completion", created: 1, model, usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 },
    choices: [{
      index: 0, logprobs: null, finish_reason: "text" in turn ? "stop" : "tool_calls",
      message: {
        role: "assistant", refusal: null, content: "text" in turn ? turn.text : null,
        ...("calls" in turn && { tool_calls: turn.calls.map(({ name, input }) => ({ id: `call_${id()}`, type: "function", function: { name, arguments: JSON.stringify(input) } })) }),
      },
    }],
  }),
  events: (whole) => {
    const { message, finish_reason } = whole["choices"][0];
    const chunk = (delta: Json, finish: string | null = null): Json => ({ ...whole, object: "chat.completion.chunk", usage: undefined, choices: [{ index: 0, delta, finish_reason: finish }] });
    const calls = ((message.tool_calls ?? []) as Json[]).map((call, index) => chunk({ tool_calls: [{ index, ...call }] }));
    return [chunk({ role: "assistant" }), ...halves(message.content ?? "").map((content) => chunk({ content })), ...calls, chunk({}, finish_reason)];
  },
  end: "data: [DONE]\n\n",
};

const messages: Dialect = {
  whole: (turn, id, model) => ({
    id: `msg_${id()}`, type: "message", role: "assistant", model, stop_sequence: null, stop_reason: "text" in turn ? "end_turn" : "tool_use",
    content: "text" in turn ? [{ type: "text", text: turn.text }] : turn.calls.map(({ name, input }) => ({ type: "tool_use", id: `toolu_${id()}`, name, input })),
    usage: { input_tokens: 1, output_tokens: 1 },
  }),
  events: (whole) => {
    const blocks = (whole["content"] as Json[]).flatMap((block, index) => [
      { type: "content_block_start", index, content_block: block["type"] === "text" ? { ...block, text: "" } : { ...block, input: {} } },
      ...halves(block["type"] === "text" ? block["text"] : JSON.stringify(block["input"])).map((half) => ({
        type: "content_block_delta", index, delta: block["type"] === "text" ? { type: "text_delta", text: half } : { type: "input_json_delta", partial_json: half },
      })),
      { type: "content_block_stop", index },
    ]);
    const { stop_reason, usage } = whole;
    return [{ type: "message_start", message: { ...whole, content: [], stop_reason: null } }, ...blocks, { type: "message_delta", delta: { stop_reason, stop_sequence: null }, usage }, { type: "message_stop" }];
  },
};

const DIALECTS: Record<string, Dialect> = { "/v1/responses": responses, "/v1/chat/completions": completions, "/v1/messages": messages };
