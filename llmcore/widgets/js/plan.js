// A training step on many GPUs, predicted as llmcore/planning/
// does: the same formulas, the same refusals, in the same words.

/** @typedef {[number[], number[]]} Count numbers and flags, each as coefficients of b T, b T^2, T, T^2 */
/** @typedef {{block: number, embedding: number, head: number, first: number, last: number}} Weights */
/**
 * @typedef {{weights: Weights, kept: Record<"block" | "norms" | "attention" | "first" | "last",
 *   Count>, work: Record<"block" | "scores" | "head", number[]>}} Counts
 */
/**
 * @typedef {{n_layers: number, d_model: number, n_heads: number, n_kv_heads: number,
 *   d_head: number, d_ff: number, vocab_size: number, context_length: number,
 *   tied: boolean, paths: Record<string, Record<string, Counts>>}} Model
 */
/**
 * @typedef {{data: number, tensor: number, pipeline: number, zero: number, microbatches: number,
 *   chunks: number, sequence_parallel: boolean, recompute: string, precision: string}} Plan
 */
/**
 * @typedef {{name: string, memory: number, peak: Record<string,
 *   number>, node: number, inside: number, between: number}} Hardware
 */
/**
 * @typedef {{stage: number, layers: number, parameters: number, gathered: number,
 *   held: number, stays: number, activations: number, working: number, logits: number,
 *   flops: number, tensor: number, pipeline: number}} Stage one rank of it, per microbatch
 */

export const PARTS = /** @type {const} */ ([
  "parameters",
  "gradients",
  "optimizer",
  "activations",
  "logits",
  "working",
]);
export const KINDS = /** @type {const} */ (["data", "tensor", "pipeline"]);
export const TIMES = /** @type {const} */ (["compute", "tensor", "pipeline", "bubble", "data"]);
/** Bytes per parameter: weight, gradient, optimizer. @type {Record<string, [number, number, number]>} */
export const BYTES = { fp32: [4, 4, 8], bf16: [2, 2, 12] };

const sum = (/** @type {number[]} */ list) => list.reduce((a, b) => a + b, 0);
/** @param {number[]} c @param {number} b @param {number} T */
const at = (c, b, T) => c[0] * b * T + c[1] * b * T * T + c[2] * T + c[3] * T * T;
/** @param {Plan} plan */
export const ranksOf = (plan) => plan.data * plan.tensor * plan.pipeline;

/**
 * Bytes a second that a rank of a ring sends: over all
 * adapters of its group in a node, where it leaves the node.
 * @param {Hardware} hardware @param {number} ranks @param {number} [apart]
 */
const ringRate = (hardware, ranks, apart = 1) =>
  ranks * apart <= hardware.node
    ? hardware.inside
    : Math.min(hardware.inside, Math.max(1, Math.floor(hardware.node / apart)) * hardware.between);

/**
 * What is wrong with a plan for this model and batch, "" where nothing is.
 * @param {Model} model @param {string} path @param {Plan} plan @param {number} B @param {number} T
 */
export function refusal(model, path, plan, B, T) {
  const { data, tensor, pipeline, zero, microbatches, chunks } = plan;
  for (const name of /** @type {const} */ (["data", "tensor", "pipeline", "microbatches", "chunks"]))
    if (!(plan[name] >= 1)) return `${name}=${plan[name]}: must be at least 1`;
  if (zero && data === 1)
    return (
      `zero=${zero} with data=1 would be ignored: ` +
      "there is nobody to share with; set zero=0 or data above 1"
    );
  if (zero === 3 && pipeline > 1)
    return (
      "zero=3 with a pipeline gathers every weight twice a microbatch: " + "choose zero 1 or 2, or pipeline=1"
    );
  if (plan.sequence_parallel && tensor === 1)
    return (
      "sequence_parallel with tensor=1 would be ignored: " +
      "it splits T among tensor ranks; set tensor above 1"
    );
  if (chunks > 1 && pipeline === 1)
    return `chunks=${chunks} with pipeline=1 would be ignored: set chunks=1 or pipeline above 1`;
  if (chunks > 1 && microbatches % pipeline)
    return (
      `microbatches=${microbatches} with chunks=${chunks}: an interleaved schedule runs them in groups of ` +
      `pipeline=${pipeline}; choose a multiple, or chunks=1`
    );
  for (const name of /** @type {const} */ (["n_heads", "n_kv_heads", "d_ff"]))
    if (model[name] % tensor)
      return (
        `tensor=${tensor} does not divide ${name}=${model[name]}: ` +
        "ranks take equal shares; choose a divisor"
      );
  if (!(B >= 1) || B % (data * microbatches))
    return (
      `B=${B} is no multiple of data x microbatches = ${data} x ${microbatches}: ` +
      "all microbatches have one size; change B or the plan"
    );
  if (plan.sequence_parallel && T % tensor)
    return (
      `T=${T} is no multiple of tensor=${tensor}: ` +
      "sequence_parallel cuts T into equal pieces; pad T or turn it off"
    );
  if (plan.recompute === "selective" && path !== "explicit")
    return (
      `recompute='selective' with attention='${path}' would be ignored: it keeps no squares to save; ` +
      "choose 'none', 'full' or attention='explicit'"
    );
  if (!layers(model, plan).length)
    return (
      `pipeline x chunks = ${pipeline} x ${chunks} divides neither n_layers=${model.n_layers} nor ` +
      `${model.n_layers + 2}: stages take equal parts, or the first and the last one block fewer; ` +
      "choose a divisor"
    );
  if (!(T >= 1) || T > model.context_length)
    return (
      `T=${T}, S=0 with context_length=${model.context_length}: ` + "a model reads 1 to context_length tokens"
    );
  return "";
}

/**
 * Blocks of each stage; [] where they cannot be shared out.
 * @param {Model} model @param {Plan} plan @returns {number[]}
 */
export function layers(model, plan) {
  const [L, p, pieces] = [model.n_layers, plan.pipeline, plan.pipeline * plan.chunks];
  if (L % pieces === 0) return Array(p).fill(L / p);
  const k = (L + 2) / p;
  if ((L + 2) % pieces === 0 && k >= 2)
    return Array.from({ length: p }, (_, s) => (s === 0 || s === p - 1 ? k - 1 : k));
  return [];
}

/** Microbatches held at most, in whole stages. @param {Plan} plan @param {number} stage */
export function held(plan, stage) {
  const ahead = plan.pipeline - stage - 1;
  if (plan.chunks === 1) return Math.min(plan.microbatches, ahead + 1);
  return (
    Math.min(plan.microbatches * plan.chunks, 2 * ahead + (plan.chunks - 1) * plan.pipeline + 1) / plan.chunks
  );
}

/**
 * @param {Model} model @param {string} path @param {Plan} plan
 * @param {number} B @param {number} T @returns {Stage[]}
 */
export function stagesOf(model, path, plan, B, T) {
  const { tensor: t, pipeline: p } = plan;
  const { weights, kept, work } = model.paths[path][t];
  const size = BYTES[plan.precision][0];
  const b = B / (plan.data * plan.microbatches);
  const V = Math.ceil(model.vocab_size / t);
  const stream = b * T * model.d_model * size;
  const split = plan.sequence_parallel ? t : 1;
  const bytes = (/** @type {Count} */ [numbers, flags]) => at(numbers, b, T) * size + at(flags, b, T);

  const alike = bytes(kept.norms) + 2 * stream;
  const block = bytes(kept.block) - alike + alike / split;
  const squares = bytes(kept.attention) - (stream + 4 * b * T * (model.n_heads / t) * model.d_head * size);
  const stays = { none: block, selective: block - squares, full: stream / split }[plan.recompute] ?? block;
  const again =
    { none: 0, selective: at(work.scores, b, T), full: at(work.block, b, T) }[plan.recompute] ?? 0;
  const ring = ((t - 1) / t) * stream;
  const messages = (plan.sequence_parallel ? 10 : 8) + (plan.recompute === "full" ? 4 : 0);
  return layers(model, plan).map((k, stage) => {
    const first = Number(stage === 0);
    const last = Number(stage === p - 1);
    const count = held(plan, stage);
    const copy = model.tied && p > 1 ? weights.embedding : 0;
    const outside = first * weights.first + last * (weights.last + copy);
    return {
      stage,
      layers: k,
      parameters: k * weights.block + outside,
      gathered: weights.block + outside,
      held: count,
      stays,
      activations:
        Math.round(count * k * stays) +
        first * Math.ceil(count) * bytes(kept.first) +
        (last * bytes(kept.last)) / split,
      working: block - stays,
      logits: last * 2 * 4 * b * T * V,
      flops: k * (3 * at(work.block, b, T) + again) + last * 3 * at(work.head, b, T),
      tensor:
        ring * (messages * k + 2 * first + (plan.sequence_parallel ? 3 : 2) * last) +
        ((last * 2 * (t - 1)) / t) * 3 * b * T * 4,
      pipeline: p > 1 ? (stream / split) * (2 * plan.chunks - first - last) : 0,
    };
  });
}

/**
 * Bytes of one stage's rank by part.
 * @param {Plan} plan @param {Stage} s @returns {Record<typeof PARTS[number], number>}
 */
export function memoryOf(plan, s) {
  const [weight, gradient, moments] = BYTES[plan.precision];
  const part = Math.ceil(s.parameters / plan.data);
  return {
    parameters: weight * (plan.zero >= 3 ? part : s.parameters),
    gradients: gradient * (plan.zero >= 2 ? part : s.parameters),
    optimizer: moments * (plan.zero >= 1 ? part : s.parameters),
    activations: s.activations,
    logits: s.logits,
    working: s.working + (plan.zero === 3 ? weight * s.gathered : 0),
  };
}

/** How many bytes per parameter the data ranks send, as multiples of (d - 1) / d. @param {Plan} plan */
export function dataSends(plan) {
  const [weight, gradient] = BYTES[plan.precision];
  return [
    2 * gradient,
    gradient + weight,
    plan.microbatches * gradient + weight,
    plan.microbatches * (gradient + 2 * weight),
  ][plan.zero];
}

/**
 * Everything at once: the fullest rank's memory, the busiest
 * rank's sends, the seconds of a step. Or why it cannot be.
 * @param {Model} model @param {string} path @param {Plan} plan @param {Hardware} hardware
 * @param {number} B @param {number} T @param {number} efficiency
 */
export function predict(model, path, plan, hardware, B, T, efficiency) {
  const error = refusal(model, path, plan, B, T);
  if (error) return { error };
  const m = plan.microbatches;
  const stages = stagesOf(model, path, plan, B, T);
  const total = (/** @type {Record<string, number>} */ x) => sum(Object.values(x));
  const fullest = stages.reduce(
    (best, s) => (total(memoryOf(plan, s)) > total(memoryOf(plan, best)) ? s : best),
    stages[0],
  );
  const memory = memoryOf(plan, fullest);

  const dataBytes = (/** @type {Stage} */ s) =>
    dataSends(plan) * (plan.data - 1) * Math.ceil(s.parameters / plan.data);
  const table = (/** @type {number} */ stage) =>
    model.tied && plan.pipeline > 1 && (stage === 0 || stage === plan.pipeline - 1)
      ? Math.ceil(model.vocab_size / plan.tensor) * model.d_model * BYTES[plan.precision][1]
      : 0;
  const sends = stages.map((s) => ({
    data: dataBytes(s),
    tensor: m * s.tensor,
    pipeline: m * s.pipeline + table(s.stage),
  }));
  const communication = sends.reduce((best, x) => (total(x) > total(best) ? x : best), sends[0]);

  const links = {
    tensor: ringRate(hardware, plan.tensor),
    pipeline: plan.tensor * plan.pipeline <= hardware.node ? hardware.inside : hardware.between,
    data: ringRate(hardware, plan.data, plan.tensor * plan.pipeline),
  };
  const peak = hardware.peak[plan.precision];
  const micro = stages.map((s) => [
    s.flops / (peak * efficiency),
    s.tensor / links.tensor,
    s.pipeline / links.pipeline,
  ]);
  const slowest = micro.reduce((best, x) => (sum(x) > sum(best) ? x : best), micro[0]);
  const hides = plan.zero >= 2 ? m * slowest[0] : (slowest[0] * 2) / 3;
  const data = Math.max(...stages.map(dataBytes)) / links.data;
  const time = {
    compute: m * slowest[0],
    tensor: m * slowest[1],
    pipeline: m * slowest[2] + table(0) / links.pipeline,
    bubble: ((plan.pipeline - 1) / plan.chunks) * sum(slowest),
    data: Math.max(0, data - hides),
  };
  const whole = model.paths[path][1].work;
  const training = 3 * (model.n_layers * at(whole.block, B, T) + at(whole.head, B, T));
  const seconds = total(time);
  return {
    error: "",
    memory,
    communication,
    time,
    seconds,
    fullest,
    links,
    hidden: Math.min(data, hides),
    flops: training,
    utilization: training / (seconds * ranksOf(plan) * peak),
  };
}
