//! Writing safetensors files, tensor by tensor: memory does not grow with the model.

use super::quantised::{metadata, packed_info, part_names};
use super::Dtype;
use crate::reference::{quantise, Quant, BLOCK};
use serde_json::{json, Map, Value};
use std::{collections::BTreeMap, io, ops::Range};

/// A tensor to be written, as what.
pub(crate) struct Entry<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    pub dtype: Dtype,
}

impl Entry<'_> {
    /// Bytes it takes, scales included.
    pub fn bytes(&self) -> u64 {
        let Some((&columns, rest)) = self.shape.split_last() else {
            return self.dtype.row_bytes(1) as u64;
        };
        rest.iter().map(|&n| n as u64).product::<u64>() * self.dtype.row_bytes(columns) as u64
    }
}

/// Where in a file a type comes: so that each tensor lies at a multiple of its elements' size without gaps (a quantised
/// matrix's integers are multiples of 16 bytes, its scales of 2).
pub(super) fn place(dtype: Dtype) -> u8 {
    match dtype {
        Dtype::F32 => 0,
        Dtype::Quantised(_) => 1,
        Dtype::F16 | Dtype::BF16 => 2,
    }
}

/// The header, its length before it, of tensors that follow in this order. Of a quantised matrix the integers come first,
/// then its scales. All quantised ones are of one type.
pub(crate) fn header<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Vec<u8> {
    let mut header = Map::new();
    let (mut end, mut quant, mut shapes) = (0u64, None, BTreeMap::new());
    let mut add = |name: String, dtype: String, shape: &[usize], bytes: u64| {
        let begin = end;
        end += bytes;
        header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] }));
    };
    for entry in entries {
        match (entry.dtype.quant(), entry.shape) {
            (Some(kind), &[n, k]) => {
                let (packed, scales) = part_names(entry.name, kind);
                let (dtype, shape) = packed_info(kind, n, k).unwrap_or((safetensors::Dtype::U8, vec![n, k]));
                add(packed, dtype.to_string(), &shape, (n * kind.row_bytes(k)) as u64);
                add(scales, "BF16".into(), &[n, k.div_ceil(BLOCK)], (n * Quant::row_scale_bytes(k)) as u64);
                quant = Some(kind);
                shapes.insert(entry.name.to_owned(), [n, k]);
            }
            _ => add(entry.name.into(), entry.dtype.to_string().to_uppercase(), entry.shape, entry.bytes()),
        }
    }
    if let Some(quant) = quant {
        header.insert("__metadata__".into(), json!(metadata(quant, &shapes)));
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // The format asks for the data to start at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header].concat()
}

/// Values that are quantised at once.
const BATCH: usize = 1 << 20;

/// Writes a matrix (n, k) quantised, asking `rows` for its rows in order, some at a time. `seen` gets each batch's values,
/// integers and scales.
///
/// # Errors
/// Those of `rows` and of `out`.
pub(super) fn write_quantised<E: From<io::Error>>(
    out: &mut dyn io::Write,
    quant: Quant,
    (n, k): (usize, usize),
    mut rows: impl FnMut(Range<usize>) -> Result<Vec<f32>, E>,
    mut seen: impl FnMut(&[f32], &[u8], &[u8]),
) -> Result<(), E> {
    let batch = (BATCH / k.max(1)).max(1);
    let (mut packed, mut scales) = (Vec::new(), Vec::new());
    for start in (0..n).step_by(batch) {
        let values = rows(start..(start + batch).min(n))?;
        packed.clear();
        let before = scales.len();
        quantise(quant, &values, k, &mut packed, &mut scales);
        out.write_all(&packed)?;
        seen(&values, &packed, &scales[before..]);
    }
    Ok(out.write_all(&scales)?)
}
