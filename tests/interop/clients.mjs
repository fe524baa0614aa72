// The official JavaScript client of Ollama against a running server:
//
//     npm install ollama
//     node tests/interop/clients.mjs http://127.0.0.1:11777 [MODEL]
//
// Prints one line for each call, and ends with 1 when one of them failed. Node looks for the package where this file lies:
// copy it beside node_modules where that is elsewhere.

import { Ollama } from "ollama";

const [host, model = "smollm2"] = process.argv.slice(2);
const client = new Ollama({ host });
const messages = [{ role: "user", content: "Name one colour." }];
const options = { num_predict: 12, temperature: 0 };
let failed = 0;

const assert = (holds, what) => {
    if (!holds) throw new Error(what);
};

async function check(call, run) {
    try {
        console.log(`${call.padEnd(24)} ok    ${await run()}`);
    } catch (error) {
        failed += 1;
        console.log(`${call.padEnd(24)} FAIL  ${error}`);
    }
}

await check("chat", async () => (await client.chat({ model, messages, options })).message.content);
await check("chat, stream", async () => {
    let text = "";
    let last;
    for await (const part of await client.chat({ model, messages, options, stream: true })) {
        text += part.message.content;
        last = part;
    }
    assert(last.done, "no end");
    return text;
});
await check("chat, stream, abort", async () => {
    const stream = await client.chat({ model, messages, options: { num_predict: 400 }, stream: true });
    let n = 0;
    try {
        for await (const _ of stream) if (++n === 3) stream.abort();
    } catch (error) {
        assert(error.name === "AbortError", error);
    }
    return `after ${n} parts`;
});
await check("generate", async () => (await client.generate({ model, prompt: "The sky is", options })).response);
await check("embed", async () => (await client.embed({ model, input: ["one", "two"] })).embeddings.length);
await check("list, show, ps", async () => {
    const { models } = await client.list();
    const shown = await client.show({ model });
    const running = await client.ps();
    assert(shown.model_info["general.architecture"] && running.models.length > 0, "fields are missing");
    return `${models.length} models`;
});
await check("pull, stream", async () => {
    let last;
    for await (const part of await client.pull({ model, stream: true })) last = part;
    return last.status;
});
await check("create, copy, delete", async () => {
    await client.create({ model: "from-js", from: model, system: "Be brief." });
    await client.copy({ source: "from-js", destination: "from-js-2" });
    await client.delete({ model: "from-js" });
    return (await client.delete({ model: "from-js-2" })).status;
});
await check("error", async () => {
    const error = await client.chat({ model: "no-such-model", messages }).catch((error) => error);
    assert(error.status_code === 404, error);
    return error.message;
});
process.exit(failed > 0 ? 1 : 0);
