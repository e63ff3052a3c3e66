//! What can be wrong with a checkpoint.

/// A checkpoint could not be read, is damaged, contradicts itself, or is of a kind this crate does not run.
///
/// Every message names the file, and where there is one the tensor or the config key; `file` is a path as the caller
/// gave it, or a made-up name such as `embedded/model.safetensors` for bytes in memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Nothing at that path.
    #[error("{path}: no such file or folder")]
    NotFound { path: String },
    /// Nothing at that path, which reads as if something else was meant.
    #[error("{path}: no such file or folder; {hint}")]
    NotLocal { path: String, hint: String },
    /// The operating system refused to open, read or map a file.
    // Not called `source`: the message says the reason, and whoever prints the chain would say it again.
    #[error("{path}: {reason}")]
    Io { path: String, reason: std::io::Error },
    /// A link whose target is not there.
    #[error("{path}: a link to {target}, which is not there: the download is not complete; download the model again")]
    DanglingLink { path: String, target: String },
    /// A file that holds something else than its name promises: a git-lfs pointer, a web page, another format.
    #[error("{file}: {what}, where {expected} should be: {advice}")]
    WrongFile { file: String, what: String, expected: &'static str, advice: &'static str },
    /// A path that is neither a folder nor a regular file (a pipe, a device).
    #[error("{path}: neither a folder nor a regular file")]
    NotAFile { path: String },
    /// A file that is not in the safetensors format, by its name.
    #[error(
        "{path}: not a .safetensors file{hint}; give a folder with model.safetensors and config.json, or a .safetensors file"
    )]
    NotSafetensors { path: String, hint: String },
    /// A folder without weights. `hint`: what is there.
    #[error("{path}: no weights in this folder: looked for model.safetensors, model.safetensors.index.json and a single other .safetensors file{hint}")]
    NoWeights { path: String, hint: String },
    /// A folder of several models' folders.
    #[error("{path}: several models in this folder: name one of {list}")]
    SeveralModels { path: String, list: String },
    /// Several .safetensors files and nothing to say how they belong together.
    #[error("{path}: {count} .safetensors files but no model.safetensors.index.json that says which tensor is in which; name one file, or add the index")]
    SeveralFiles { path: String, count: usize },
    /// An adapter where a model was asked for.
    #[error("{path}: a LoRA adapter without a model: open {base}, and give this to it with --lora {adapter}")]
    OnlyAdapter { path: String, base: String, adapter: String },
    /// An adapter among the files of a model that is not read from a folder.
    #[error("{path}: LoRA adapters are not merged here: merge it first, with `mamba-wgpu quantize --lora` or PEFT's merge_and_unload")]
    AdapterHere { path: String },
    /// No adapter where one was asked for.
    #[error("{path}: no LoRA adapter: looked for adapter_config.json and adapter_model.safetensors")]
    NoAdapter { path: String },
    /// A tensor of an adapter for what the model does not have.
    #[error("{file}: tensor `{tensor}` is for `{target}`, which the model does not have: an adapter of another model")]
    AdapterTarget { file: String, tensor: String, target: String },
    /// Weights in Python's pickle format only, which can run code when read.
    #[error("{path}: weights as a Python pickle (.bin, .pt), which this program does not read. Convert them once, in Python:\n\n{recipe}")]
    PickleOnly { path: String, recipe: String },
    /// The file has no bytes.
    #[error("{file}: the file is empty (0 bytes)")]
    EmptyFile { file: String },
    /// The safetensors header is damaged or does not describe the file.
    #[error("{file}: damaged safetensors file: {reason}")]
    Header { file: String, reason: String },
    /// A tensor name that occurs twice.
    #[error("{file}: tensor `{tensor}` occurs twice (also in {other})")]
    DuplicateTensor { file: String, tensor: String, other: String },
    /// The index of a sharded checkpoint is not what such an index looks like.
    #[error("{file}: bad index of shards: {reason}")]
    Index { file: String, reason: String },
    /// The index names a file outside its own folder.
    #[error("{file}: tensor `{tensor}` is said to be in `{shard}`, which is not a plain file name: shards must lie beside the index")]
    ShardPath { file: String, tensor: String, shard: String },
    /// The index names a file that is not there.
    #[error("{file}: tensor `{tensor}` is said to be in `{shard}`, but there is no file {path}")]
    MissingShard { file: String, tensor: String, shard: String, path: String },
    /// The index promises a tensor that its shard does not hold.
    #[error("{file}: tensor `{tensor}` is said to be in `{shard}`, which does not hold it")]
    NotInShard { file: String, tensor: String, shard: String },
    /// A folder without config.json.
    #[error("{path}: no config.json in this folder; add the model's, or pass the .safetensors file itself to take everything from the tensors (which cannot tell Falcon-Mamba from Mamba, and do not say enough of a Mamba-2)")]
    ConfigMissing { path: String },
    /// A file of which the tensors do not tell enough.
    #[error("{file}: a Mamba-2 model without its config.json: the tensors do not tell its groups, its limits of delta and its norm; put config.json beside it")]
    ConfigNeeded { file: String },
    /// config.json is not JSON, or not an object.
    #[error("{file}: not a JSON object: {reason}")]
    ConfigSyntax { file: String, reason: String },
    /// A config key has a value of the wrong kind or range.
    #[error("{file}: `{key}` is {value}: {expected}")]
    ConfigValue { file: String, key: String, value: String, expected: &'static str },
    /// The config and the tensors disagree on something that matters.
    #[error("{file}: `{key}` is {value}, but {found}")]
    Contradiction { file: String, key: String, value: String, found: String },
    /// A model family this crate does not know.
    #[error("{file}: `{key}` is \"{value}\": only {known} models can be run")]
    UnknownArchitecture { file: String, key: &'static str, value: String, known: &'static str },
    /// A config option whose effect is not implemented, so that running would give wrong output.
    #[error("{file}: `{key}` is {value}: not supported ({reason})")]
    UnsupportedOption { file: String, key: String, value: String, reason: &'static str },
    /// A stored tensor whose effect is not implemented, so that running would give wrong output.
    #[error("{file}: tensor `{tensor}` is not supported ({reason})")]
    UnsupportedTensor { file: String, tensor: String, reason: &'static str },
    /// Two naming schemes in one checkpoint.
    #[error("{file}: `{first}` and `{second}` could both be the same weight: cannot tell which one to read")]
    AmbiguousNames { file: String, first: String, second: String },
    /// A tensor the model needs is not there.
    #[error("{file}: tensor `{tensor}` is missing{hint}")]
    MissingTensor { file: String, tensor: String, hint: String },
    /// A tensor has not the shape that the others and the architecture ask for.
    #[error("{file}: tensor `{tensor}` has shape {found:?}, expected {expected} = {shape:?}")]
    Shape { file: String, tensor: String, found: Vec<usize>, expected: &'static str, shape: Vec<usize> },
    /// A tensor from which dimensions are read has not the right number of them.
    #[error("{file}: tensor `{tensor}` has shape {found:?}, expected {expected}")]
    Rank { file: String, tensor: String, found: Vec<usize>, expected: &'static str },
    /// A tensor without elements.
    #[error("{file}: tensor `{tensor}` has shape {found:?}: a dimension of 0")]
    ZeroSize { file: String, tensor: String, found: Vec<usize> },
    /// A number format other than f32, f16 and bf16.
    #[error("{file}: tensor `{tensor}` is stored as {dtype}: only {allowed} can be read")]
    Dtype { file: String, tensor: String, dtype: String, allowed: &'static str },
    /// What the file says of its quantised tensors is wrong, or of a kind this version does not read.
    #[error("{file}: quantised weights: {reason}")]
    Quantisation { file: String, reason: String },
    /// A NaN or an infinity among the weights. `index` counts elements of the whole tensor, row-major.
    #[error("{file}: tensor `{tensor}` holds {value} at element {index}: the weights are damaged")]
    NonFinite { file: String, tensor: String, index: usize, value: f32 },
    /// A weight that is finite, and with what LoRA adapters add to it beyond its number format.
    #[error("{file}: tensor `{tensor}` is {value} at element {index} once the LoRA adapter is added, beyond {dtype}: the adapter's alpha, or the scale that it is weighed with, is too large")]
    Adapted { file: String, tensor: String, index: usize, value: f32, dtype: String },
    /// Rows asked for that the tensor does not have (a caller's mistake, not the file's).
    #[error("{file}: rows {start}..{end} of tensor `{tensor}`, which has {rows}")]
    Rows { file: String, tensor: String, start: usize, end: usize, rows: usize },
}
