//! Quantised matrices in a safetensors file (docs/quantisation.md): what says how they are stored, and the checks.
//!
//! A matrix NAME (n, k) is two tensors: `NAME.q8` (I8, (n, K)) or `NAME.q4` (U8, (n, K / 2)), K being k filled up to whole
//! blocks, and `NAME.scales` (BF16, (n, K / 32)). The file's `__metadata__` says which, and the matrices' shapes.

use super::{
    names,
    shard::{Shard, Stored},
    LoadError,
};
use crate::reference::{Quant, BLOCK};
use safetensors::Dtype;
use std::collections::{BTreeMap, HashMap};

/// Keys of `__metadata__`: `q8` or `q4`; the version of all this; values a block; {"NAME": [n, k], ...} in JSON.
const KIND: &str = "quantisation";
const VERSION: &str = "quantisation_version";
const SIZE: &str = "quantisation_block";
const SHAPES: &str = "quantisation_shapes";
/// The only version there is.
const CURRENT: &str = "1";

/// The names of the two tensors of a matrix.
pub(super) fn part_names(name: &str, quant: Quant) -> (String, String) {
    (format!("{name}.{}", quant.tag()), format!("{name}.scales"))
}

/// Type and shape of the integers of a matrix (n, k), as the header has them; `None` for a k beyond all bounds.
pub(super) fn packed_info(quant: Quant, n: usize, k: usize) -> Option<(Dtype, Vec<usize>)> {
    let filled = k.checked_next_multiple_of(BLOCK)?;
    Some(match quant {
        Quant::Q8 => (Dtype::I8, vec![n, filled]),
        Quant::Q4 => (Dtype::U8, vec![n, filled / 2]),
    })
}

/// The `__metadata__` of a file with these quantised matrices.
pub(super) fn metadata(quant: Quant, shapes: &BTreeMap<String, [usize; 2]>) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("format", "mamba-wgpu".into()),
        (KIND, quant.tag().into()),
        (VERSION, CURRENT.into()),
        (SIZE, BLOCK.to_string()),
        (SHAPES, serde_json::json!(shapes).to_string()),
    ])
}

/// How a file's matrices are quantised, if they are.
fn kind(file: &str, metadata: &HashMap<String, String>) -> Result<Option<Quant>, LoadError> {
    let bad = |reason: String| Err(LoadError::Quantisation { file: file.into(), reason });
    let Some(kind) = metadata.get(KIND) else { return Ok(None) };
    match metadata.get(VERSION).map(String::as_str) {
        Some(CURRENT) => {}
        Some(other) => return bad(format!("`{VERSION}` is {other:?}: this program reads version {CURRENT}")),
        None => return bad(format!("`{KIND}` is there without `{VERSION}`")),
    }
    match metadata.get(SIZE).map(|size| size.parse::<usize>()) {
        Some(Ok(BLOCK)) => {}
        Some(_) => return bad(format!("`{SIZE}` is {:?}: it must be {BLOCK}", metadata[SIZE])),
        None => return bad(format!("`{KIND}` is there without `{SIZE}`")),
    }
    match Quant::ALL.into_iter().find(|quant| quant.tag() == kind) {
        Some(quant) => Ok(Some(quant)),
        None => bad(format!("`{KIND}` is {kind:?}: this program reads q8 and q4")),
    }
}

/// An error unless all shards are quantised alike.
pub(super) fn same_in_all<'a>(shards: impl Iterator<Item = &'a Shard>) -> Result<(), LoadError> {
    let mut first: Option<(&str, Quant)> = None;
    for shard in shards {
        let Some(quant) = kind(&shard.file, &shard.metadata)? else { continue };
        match first {
            Some((file, other)) if other != quant => {
                let reason = format!("they are {}, but those of {file} are {}", quant.tag(), other.tag());
                return Err(LoadError::Quantisation { file: shard.file.clone(), reason });
            }
            _ => first = Some((&shard.file, quant)),
        }
    }
    Ok(())
}

/// Whether a name is that of a part of a quantised matrix.
fn is_part(name: &str) -> bool {
    ["q8", "q4", "scales"].iter().any(|end| {
        let whole = name.strip_suffix(end).and_then(|name| name.strip_suffix('.'));
        whole.is_some_and(names::is_quantisable)
    })
}

/// Puts each quantised matrix's two tensors together as one of the matrix's name and shape. Files without any pass through.
pub(super) fn gather(shard: &Shard, tensors: Vec<Stored>) -> Result<Vec<Stored>, LoadError> {
    let file = || shard.file.clone();
    let bad = |reason: String| LoadError::Quantisation { file: file(), reason };
    let quant = kind(&shard.file, &shard.metadata)?;
    let shapes: BTreeMap<String, [usize; 2]> = match (quant, shard.metadata.get(SHAPES)) {
        (None, _) => BTreeMap::new(),
        (Some(_), Some(json)) => {
            serde_json::from_str(json).map_err(|e| bad(format!("`{SHAPES}` is not {{\"NAME\": [n, k], ...}}: {e}")))?
        }
        (Some(_), None) => return Err(bad(format!("`{KIND}` is there without `{SHAPES}`"))),
    };
    let mut by_name: BTreeMap<String, Stored> = BTreeMap::new();
    let mut out = Vec::new();
    for tensor in tensors {
        if shapes.contains_key(&tensor.name) {
            return Err(bad(format!("tensor `{}` is stored quantised and as {} too", tensor.name, tensor.dtype)));
        }
        match is_part(&tensor.name) {
            // The header holds no name twice.
            true => drop(by_name.insert(tensor.name.clone(), tensor)),
            false => out.push(tensor),
        }
    }
    for (name, [n, k]) in shapes {
        let Some(quant) = quant else { continue };
        if !names::is_quantisable(&name) {
            return Err(bad(format!("`{SHAPES}` names `{name}`, which is never quantised")));
        }
        if n == 0 || k == 0 {
            return Err(LoadError::ZeroSize { file: file(), tensor: name, found: vec![n, k] });
        }
        let mut part = |part: String, dtype: Dtype, expected: &'static str, shape: Vec<usize>| {
            let Some(found) = by_name.remove(&part) else {
                let hint = format!(": a part of `{name}`, which `{SHAPES}` names");
                return Err(LoadError::MissingTensor { file: file(), tensor: part, hint });
            };
            if found.dtype != dtype {
                let allowed = match dtype {
                    Dtype::I8 => "I8",
                    Dtype::U8 => "U8",
                    _ => "BF16",
                };
                let dtype = found.dtype.to_string();
                return Err(LoadError::Dtype { file: file(), tensor: part, dtype, allowed });
            }
            match found.shape == shape {
                true => Ok(found.range),
                false => Err(LoadError::Shape { file: file(), tensor: part, found: found.shape, expected, shape }),
            }
        };
        let too_large = || bad(format!("`{SHAPES}` has {k} columns for `{name}`"));
        let (packed, scales) = part_names(&name, quant);
        let (dtype, shape) = packed_info(quant, n, k).ok_or_else(too_large)?;
        let expected = if quant == Quant::Q8 { "(n, k in whole blocks)" } else { "(n, half of k in whole blocks)" };
        let range = part(packed, dtype, expected, shape)?;
        let scales = part(scales, Dtype::BF16, "(n, blocks of k)", vec![n, k.div_ceil(BLOCK)])?;
        out.push(Stored { name, dtype, shape: vec![n, k], range, quantised: Some((quant, scales)) });
    }
    match by_name.into_keys().next() {
        Some(name) if quant.is_none() => {
            Err(bad(format!("tensor `{name}` is there, but `__metadata__` has no `{KIND}` that says what it is")))
        }
        Some(name) => Err(bad(format!("tensor `{name}` belongs to no matrix that `{SHAPES}` names"))),
        None => Ok(out),
    }
}
