// What llama.cpp makes of a GGUF file: the ids of a text, and the logits after each of some ids.
//
//     node llama_cpp.mjs MODULES model.gguf text.txt ids.json logits.f32
//
// MODULES is a folder that node-llama-cpp was installed in (install.sh). Prints the ids of the text as JSON; writes logits as
// little-endian f32, row by row.

import fs from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";

const [modules, model, text, ids, out] = process.argv.slice(2);
const entry = path.resolve(modules, "node_modules/node-llama-cpp/dist/index.js");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry).href);

// The prebuilt program, on the processor: nothing is compiled or fetched.
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, progressLogs: false, logLevel: LlamaLogLevel.error});
const loaded = await llama.loadModel({modelPath: path.resolve(model), useMmap: true});
const tokens = loaded.tokenize(fs.readFileSync(text, "utf8"), false);
const input = JSON.parse(fs.readFileSync(ids, "utf8"));

const context = await loaded.createContext({contextSize: Math.max(64, input.length + 8), batchSize: input.length + 8});
const sequence = context.getSequence();
const asked = {generateNext: {logits: true, options: {temperature: 0}}};
const answers = await sequence.controlledEvaluate(input.map((id) => [id, asked]));

const file = fs.openSync(out, "w");
for (const answer of answers) {
    const row = new Float32Array(answer.next.logits.size);
    for (const [token, logit] of answer.next.logits) row[token] = logit;
    fs.writeSync(file, new Uint8Array(row.buffer));
}
fs.closeSync(file);
console.log(JSON.stringify(tokens));
await llama.dispose();
