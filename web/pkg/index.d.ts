/**
 * What can be done about an error:
 *
 * - `no-webgpu`, `no-gpu`, `device-refused`: no device, where `backend: 'webgpu'` asked for one.
 * - `needs-gpu`: training, measuring and the self-test, which the CPU does not do. `backend: 'webgpu'` may get one.
 * - `device-lost`: the device is gone. Open and load again, then push the tokens that you kept.
 * - `not-started`: a file of this package did not come as it should, or something blocks it; the message says which and why.
 * - `out-of-memory`, `too-large`: the GPU cannot hold it. `page-memory`: the page cannot. `memory-full`: the page's memory is
 *   full, and the program ended there: open and load again.
 * - `download`: the network, or what the server sent. What arrived is in the cache: loading again goes on from there, if the
 *   server shows that it still has the same.
 * - `damaged-file`, `unusable-model`, `bad-tokenizer`, `no-tokenizer`: the model's files.
 * - `not-a-state`, `damaged-state`, `newer-state`, `other-models-state`: a state file.
 * - `options`: an option, token or prompt out of range. `no-model`, `busy`, `closed`: a call out of turn.
 * - `diverged`: a training whose loss, gradient or answer is not finite; the model is as it was before that step.
 * - `cancelled`: by an AbortSignal.
 * - `gpu-fault`, `crashed`, `fault`: a fault of the driver or of this package.
 */
export type ErrorCode =
  | 'not-started'
  | 'no-webgpu'
  | 'no-gpu'
  | 'device-refused'
  | 'needs-gpu'
  | 'device-lost'
  | 'out-of-memory'
  | 'too-large'
  | 'page-memory'
  | 'memory-full'
  | 'download'
  | 'damaged-file'
  | 'unusable-model'
  | 'bad-tokenizer'
  | 'no-tokenizer'
  | 'not-a-state'
  | 'damaged-state'
  | 'newer-state'
  | 'other-models-state'
  | 'options'
  | 'no-model'
  | 'busy'
  | 'closed'
  | 'diverged'
  | 'cancelled'
  | 'gpu-fault'
  | 'crashed'
  | 'fault';

export class MambaError extends Error {
  constructor(code: string, message: string);
  readonly code: ErrorCode;
}

/** Whether this browser offers WebGPU here at all. An adapter may still be missing. */
export function hasWebGPU(): boolean;

/** A model in the browser's cache. */
export interface CachedModel {
  url: string;
  /** False while a download that broke off waits to be resumed, and until the model has been loaded once. */
  complete: boolean;
  bytes: number;
}
export function cachedModels(): Promise<CachedModel[]>;
/** False if it was not there. */
export function deleteCachedModel(url: string): Promise<boolean>;

/**
 * A folder's URL (Hugging Face's pages of a model count as one; at `.../resolve/<commit>/` nothing ever changes, so a copy of
 * that is never asked for again), files that the user picked, or bytes by file name:
 * `config.json`, `tokenizer.json` (or `vocab.json` and `merges.txt`), `generation_config.json`, `tokenizer_config.json`, and the weights
 * as safetensors, sharded or not.
 */
export type Source = string | File[] | { name?: string; files: Record<string, Blob | ArrayBuffer | Uint8Array> };

export interface OpenOptions {
  /**
   * `auto`, the default, takes what is fast: a hardware GPU, or else one thread of the CPU, which is faster than a GPU in software.
   * `webgpu` takes any GPU that the browser gives, and fails without one; `cpu` takes none. `device` tells what it came to.
   */
  backend?: 'auto' | 'webgpu' | 'cpu';
  /** In a worker of its own. Default: where there is a document. */
  worker?: boolean;
  /** Only WebGPU's default limits and no features, whatever the adapter has: to find faults. */
  baseline?: boolean;
  /** Rather the GPU that takes less power. */
  lowPower?: boolean;
}

export interface LoadProgress {
  /** Where bytes come from: the network, the cache, the user's files; `upload`: to the device; `retry`: a new attempt. */
  stage: 'download' | 'cache' | 'read' | 'upload' | 'retry';
  /** Bytes so far and in all, as far as known. Uploading counts anew. */
  loaded: number;
  total: number;
  /** Of those, bytes from the cache. */
  cached?: number;
  file?: string;
  /** Which attempt failed. */
  retry?: number;
}

export interface LoadOptions extends OpenOptions {
  /**
   * Keep what a URL gave in the browser's cache, and use it. A copy is used as it is where the server cannot be asked within
   * three seconds; where it says that the model is another by now, that one is fetched. Default: true.
   */
  cache?: boolean;
  /** Fetch everything anew, whatever is in the cache. Default: false. */
  refresh?: boolean;
  /** How weights are held. Default: `auto`, as the checkpoint has them. */
  weights?: string;
  /** Tokens of a prompt that go through together. Default: 512. */
  chunk?: number;
  scan?: 'fused' | 'blelloch' | 'sequential';
  onProgress?(progress: LoadProgress): void;
  signal?: AbortSignal;
}

/**
 * What is left out is as the model's generation_config.json states (`ModelInfo.defaults`: `do_sample: false` is a temperature of 0), or
 * else as said here.
 */
export interface GenerateOptions {
  /** At most so many. Default: 128. */
  maxTokens?: number;
  /** 0 always takes the most likely token. Default: 0.8. */
  temperature?: number;
  /** Choose among so many; 0: all. Default: 0. */
  topK?: number;
  /** Choose among the most likely that together have this probability. Default: 0.95. */
  topP?: number;
  /** Choose among those at least this many times as likely as the most likely. Default: 0. */
  minP?: number;
  /** Above 1: tokens that were there become less likely. Default: 1. */
  repetitionPenalty?: number;
  /** Same seed, same text. Default: another each time. */
  seed?: number;
  /** The text ends before any of these. */
  stop?: string[];
  /** Goes on where the model ends its text. */
  ignoreEos?: boolean;
  /**
   * Puts those special tokens around a text that the tokenizer asks for, as transformers' `tokenizer(text)` does. Never around what
   * is appended. Default: true.
   */
  addSpecialTokens?: boolean;
  /** Continues the present text, to which the prompt (which may be empty) is added. Default: false, a new text. */
  append?: boolean;
  /** While the prompt is read: tokens done and in all. */
  onProgress?(done: number, total: number): void;
  /** Ends the text; what was written stays. */
  signal?: AbortSignal;
}

export interface Piece {
  /** The text that became certain; empty while a character is unfinished. */
  text: string;
  /** Null for a last piece that only hands out what was held back. */
  token: number | null;
}

export interface Outcome {
  finishReason: 'length' | 'eos' | 'stop' | 'cancelled' | null;
  promptTokens: number;
  generatedTokens: number;
  /** Since the prompt went in. */
  firstTokenMs: number | null;
  totalMs: number;
}

export interface ModelInfo {
  source: string;
  arch: string;
  fingerprint: string;
  description: string;
  parameters: number;
  weightBytes: number;
  stateBytes: number;
  nLayer: number;
  dModel: number;
  vocabSize: number;
  hasTokenizer: boolean;
  onGpu: boolean;
  /** What generation_config.json states, of what is understood. */
  generationConfig: Record<string, unknown>;
  /** What `generate` does where an option is left out. */
  defaults: Pick<GenerateOptions, 'maxTokens' | 'temperature' | 'topK' | 'topP' | 'minP' | 'repetitionPenalty' | 'stop'>;
  warnings: string[];
}

/** The device's part of a bench report. */
export interface GpuDevice {
  adapter: {
    name: string;
    backend: string;
    device_type: string;
    shader_f16: boolean;
    subgroups: boolean;
    timestamp_query: boolean;
    max_buffer_size: number;
    max_storage_buffer_binding_size: number;
    [key: string]: unknown;
  };
  backend: string;
  features: string[];
  limits: Record<string, number>;
}

export interface Device {
  /** Of the crate, with its commit. */
  version: string;
  /** Null: the CPU. */
  gpu: GpuDevice | null;
  /** Whether the GPU in use is one in software, which only `backend: 'webgpu'` takes. */
  software: boolean;
  /** Why `auto` took the CPU; null if it did not. What is in software can still be had by `backend: 'webgpu'`. */
  passedOver: { code: 'no-webgpu' | 'no-gpu' | 'software-gpu' | 'device-refused'; message: string } | null;
}

export interface SelfTest {
  outcomes: { name: string; failure: string | null; switched_off: string | null }[];
  /** For the demo's model: what differs from transformers' values, null if nothing does. Null for other models. */
  golden: { difference: string | null } | null;
}

export interface BenchOptions {
  /** Default: all. */
  suites?: ('ceilings' | 'scan' | 'matmul' | 'prefill' | 'decode')[];
  /** Of `130m 370m 790m 1.4b 2.8b`. Default: 130m. */
  sizes?: string[];
  /** Seconds. Default: 60. */
  timeLimit?: number;
  chunk?: number;
  onProgress?(done: number, total: number, row: string): void;
  signal?: AbortSignal;
}

/** As `mamba-wgpu bench --json` writes it. */
export interface BenchReport {
  device: GpuDevice;
  version: string;
  commit: string;
  date: string;
  time_limit_s: number;
  interrupted: boolean;
  /** The reference kernel's best time, by which each row tells whether the device was at its fastest. */
  reference_us: number | null;
  ceilings: { copy_gbps: number | null; fma_tflops: number | null };
  rows: BenchRow[];
}
export interface BenchRow {
  suite: string;
  name: string;
  variant: string;
  l: number | null;
  gpu_us: Spread | null;
  wall_us: Spread | null;
  /** The median at each place in memory that the row was measured at. */
  places_us: number[];
  gbps: number | null;
  tflops: number | null;
  share_of_copy: number | null;
  share_of_fma: number | null;
  tokens_per_s: number | null;
  /** How much slower than at best the reference was beside the samples: 1 is full speed. */
  reference_slowdown: number | null;
  /** What to beware of. */
  flags: ('few_samples' | 'unsteady' | 'above_copy' | 'above_fma')[];
  skipped: string | null;
  [key: string]: unknown;
}
export interface Spread {
  median: number;
  min: number;
  max: number;
  n: number;
}

export interface ExplainOptions {
  /** Default: all. */
  layers?: number[];
  /** Channels, in Mamba-2 heads, that are wanted by themselves too. */
  channels?: number[];
  /** Refuses a longer text. Default: 512. */
  maxTokens?: number;
  /** As in GenerateOptions. */
  addSpecialTokens?: boolean;
  /** Layers done and in all. */
  onProgress?(done: number, total: number): void;
}

/** A lower triangular map (L, L), row by row up to the diagonal: `scale` times base64 of f16, little end first. */
export interface ExplainedMap {
  scale: number;
  data: string;
}
/** A number a token each. */
export interface ExplainedLines {
  /** Step size: how far the token opens the gate. */
  delta: number[];
  /** exp(delta A): what it leaves of the state before it. */
  forget: number[];
  /** Norm of the state after it. */
  state_norm: number[];
  /** alpha(i, j), what token j's input adds to the output at token i; of a layer the mean over channels or heads. */
  attention: ExplainedMap;
}
export interface Explanation {
  source: string;
  /** The text of each token. */
  pieces: string[];
  n_layer: number;
  layers: (ExplainedLines & {
    layer: number;
    /** What has these numbers for itself: Mamba-1's channels; Mamba-2's heads, each of `width` channels. */
    units: { kind: 'channel' | 'head'; count: number; width: number; d_state: number };
    /** Mean of |alpha(i, j)|. */
    magnitude: ExplainedMap;
    channels: (ExplainedLines & {
      channel: number;
      /** How far the scan's output, made from `attention`, is from the scan's own, as a share of its largest. */
      reproduction_error: number | null;
    })[];
  })[];
}

/** Where the model is in its text. */
export interface State {
  /** A file's bytes: the text's tokens and its state. `mamba-wgpu generate --state-in` reads it too. */
  save(): Promise<Uint8Array>;
  /** Goes on from such a file, if it is this model's. `name` is what messages call it. */
  load(data: Blob | ArrayBuffer | Uint8Array, name?: string): Promise<void>;
  /** Back to the first `length` tokens. */
  undo(length: number): Promise<void>;
  /** The state after the first `length` tokens, as `save` gives it; the text stays as it is. */
  fork(length: number): Promise<Uint8Array>;
  /** An empty text. */
  clear(): Promise<void>;
}

export interface TrainOptions {
  /** Steps in all, over which the learning rate falls. */
  steps?: number;
  /** Its peak. */
  learningRate?: number;
  /** The same seed gives the same run. Default: 0. */
  seed?: number;
}

/** What a run is: the model, the task and the options. */
export interface TrainInfo {
  steps: number;
  learningRate: number;
  seed: number;
  /** Sequences a step. */
  batch: number;
  /** Tokens of a sequence. */
  length: number;
  /** The last token of the vocabulary is the special one. */
  vocabSize: number;
  nLayer: number;
  dModel: number;
  dState: number;
}

export interface StepRecord {
  /** Counted from 1. */
  step: number;
  /** Nats an answer, over the step's sequences, before the step. */
  loss: number;
  gradientNorm: number;
  learningRate: number;
}

/**
 * A small model that learns induction heads: a special token comes in a sequence of random ones, and what followed it is
 * wanted when it comes again. Calls wait for their turn; while it trains, they have it between steps.
 */
export class Training {
  private constructor(connection: unknown, created: unknown);
  readonly info: TrainInfo;
  /** Trains for so many steps, by default up to the last one. The steps done, fewer if `signal` ended it. */
  run(options?: { steps?: number; onRecord?(record: StepRecord): void; signal?: AbortSignal }): Promise<number>;
  /** How often it is right at the end of sequences that it is not trained on. Default: 32 of the training's length. */
  evaluate(options?: { length?: number; sequences?: number }): Promise<{ sequences: number; correct: number; accuracy: number; loss: number }>;
  /** One of those sequences by its number, and what is wanted at its end. */
  example(options?: { length?: number; number?: number }): Promise<{ tokens: number[]; answer: number }>;
  /** The probability of each token to follow these. */
  predict(tokens: ArrayLike<number>): Promise<Float32Array>;
  /** Gives back what it holds on the device. */
  close(): Promise<void>;
}

/** A device, a model on it once one is loaded, and one text. */
export class Mamba {
  private constructor(connection: unknown, device: Device);
  /** Opens a device, without a model. */
  static open(options?: OpenOptions): Promise<Mamba>;
  /** Opens a device and loads a model. */
  static load(source: Source, options?: LoadOptions): Promise<Mamba>;
  /** Loads a model in place of the one before. */
  loadModel(source: Source, options?: LoadOptions): Promise<ModelInfo>;

  readonly device: Device;
  /** Null without a model. */
  readonly info: ModelInfo | null;
  readonly state: State;

  /**
   * Writes. Leaving the loop ends it. The prompt is text or tokens. Where the text ends within a character, the character comes with what is
   * written next, also from a saved state.
   *
   * @example for await (const { text } of mamba.generate('Emma')) output.append(text);
   */
  generate(prompt: string | ArrayLike<number>, options?: GenerateOptions): AsyncGenerator<Piece, Outcome, void>;

  /** A text's tokens, with the special ones that the tokenizer puts around a text unless told otherwise. */
  encode(text: string, options?: { addSpecialTokens?: boolean }): Promise<Uint32Array>;
  decode(tokens: ArrayLike<number>): Promise<string>;
  /** The text of each token, after those before it; the beginning of a character at the end has none yet. */
  pieces(tokens: ArrayLike<number>): Promise<string[]>;
  /** All tokens of the text. */
  tokens(): Promise<Uint32Array>;
  /** Adds tokens to the text, which are read when it is continued. */
  push(tokens: ArrayLike<number>): Promise<void>;
  /** The logits after the last of some tokens, read on their own. */
  logits(tokens: ArrayLike<number>): Promise<Float32Array>;
  /** What the model sees in a text or tokens, read on their own. */
  explain(text: string | ArrayLike<number>, options?: ExplainOptions): Promise<Explanation>;
  /** What `train` does without options. */
  trainDefaults(): Promise<TrainInfo>;
  /** A small model to be trained here, from nothing. Needs a GPU. */
  train(options?: TrainOptions): Promise<Training>;
  /** Bytes on the device, now and at most; null on the CPU. */
  memory(): Promise<[now: number, most: number] | null>;
  /** Every kernel against its twin on the CPU. What fails is switched off where something can stand in for it. */
  selfTest(options?: { onProgress?(done: number, total: number): void }): Promise<SelfTest>;
  bench(options?: BenchOptions): Promise<BenchReport>;
  /** Ends the worker, and with it everything that it holds. */
  close(): void;
}
