//! One safetensors file: its bytes (mapped or in memory) and the tensors its header lists.
//!
//! The format: 8 bytes, little-endian, that give the header's length n; n bytes of JSON,
//! `{"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...}`; the tensors' bytes, to which the offsets refer.
//! The safetensors crate is the judge of what is valid. What it does not tell is found out here first: which tensor is at
//! fault, names that occur twice (the crate keeps the last), and offsets so large that its sums would overflow.

use super::sniff::{is_safetensors, sniff};
use super::LoadError;
use crate::reference::Quant;
use safetensors::{tensor::TensorInfo, Dtype, SafeTensors};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    ops::Range,
};

/// Length of the number that gives the header's length.
const LENGTH_BYTES: usize = 8;

pub(super) enum Bytes {
    #[cfg(not(target_arch = "wasm32"))]
    Mapped(memmap2::Mmap),
    Memory(Cow<'static, [u8]>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Bytes::Mapped(map) => map,
            Bytes::Memory(bytes) => bytes,
        }
    }
}

/// A tensor as its file's header describes it; `range` is where its bytes lie in the file.
pub(super) struct Stored {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
    /// Of a quantised matrix (`quantised::gather`): how, and where its scales lie. `shape` is the matrix's, `range` where
    /// its integers are.
    pub quantised: Option<(Quant, Range<usize>)>,
}

/// What a header holds: its tensors and its `__metadata__`.
pub(super) type Header = (Vec<Stored>, HashMap<String, String>);

pub(super) struct Shard {
    pub file: String,
    pub bytes: Bytes,
    pub metadata: HashMap<String, String>,
}

impl Shard {
    /// Maps a file into memory and reads its header; weights are read from the disk only as they are used.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn map(path: &std::path::Path) -> Result<(Self, Vec<Stored>), LoadError> {
        let file = path.display().to_string();
        let io = |reason| LoadError::Io { path: file.clone(), reason };
        let open = std::fs::File::open(path).map_err(io)?;
        let metadata = open.metadata().map_err(io)?;
        // Opening a pipe or a device and mapping it would fail obscurely, or never end.
        if !metadata.is_file() {
            return Err(LoadError::NotAFile { path: file });
        }
        if metadata.len() == 0 {
            return Err(LoadError::EmptyFile { file });
        }
        // SAFETY: the map is read-only and private to this process; its bytes are only ever read as plain numbers, for
        // which every bit pattern is valid. What cannot be ruled out from here is another process that changes the file
        // meanwhile (then numbers change) or truncates it (then reading beyond its new end raises SIGBUS). Both are
        // what every reader that maps its weights accepts, in exchange for not copying gigabytes.
        let map = unsafe { memmap2::Mmap::map(&open) }.map_err(io)?;
        Self::new(file, Bytes::Mapped(map))
    }

    /// Reads the header of bytes in memory. `file` is what messages will call them.
    pub fn new(file: String, bytes: Bytes) -> Result<(Self, Vec<Stored>), LoadError> {
        let (tensors, metadata) = read_header(&file, &bytes).map_err(|e| match (e, sniff(&bytes)) {
            (LoadError::Header { file, .. }, Some((what, advice))) if !is_safetensors(&bytes) => {
                LoadError::WrongFile { file, what, expected: "a safetensors file", advice }
            }
            (e, _) => e,
        })?;
        Ok((Self { file, bytes, metadata }, tensors))
    }
}

fn read_header(file: &str, bytes: &[u8]) -> Result<Header, LoadError> {
    let bad = |reason: String| LoadError::Header { file: file.into(), reason };
    let length = bytes.len();
    if length == 0 {
        return Err(LoadError::EmptyFile { file: file.into() });
    }
    let Some(first) = bytes.first_chunk::<LENGTH_BYTES>() else {
        return Err(bad(format!("{length} bytes, fewer than the {LENGTH_BYTES} that give the header's length")));
    };
    let n = u64::from_le_bytes(*first);
    let data = usize::try_from(n).ok().and_then(|n| n.checked_add(LENGTH_BYTES)).filter(|&start| start <= length);
    let Some(data) = data else {
        return Err(bad(format!(
            "it says that its header has {n} bytes, but the whole file has {length}; if it was cut short, download it again"
        )));
    };
    let entries =
        entries(&bytes[LENGTH_BYTES..data]).map_err(|e| bad(format!("its header is not the JSON expected: {e}")))?;
    // A file that was cut short, as a download is that broke off.
    let described = entries.iter().map(|(_, info)| info.data_offsets.1).max().unwrap_or(0);
    let cut = match described.checked_sub(length - data) {
        Some(missing @ 1..) if (described as u64) < 1 << 50 => {
            format!(" (the file is cut short by {missing} bytes: download it again)")
        }
        _ => String::new(),
    };
    let mut names = HashSet::new();
    for (name, info) in &entries {
        if !names.insert(name) {
            return Err(LoadError::DuplicateTensor {
                file: file.into(),
                tensor: name.clone(),
                other: "the same file".into(),
            });
        }
        let (begin, end) = info.data_offsets;
        if begin > end || end > length - data {
            return Err(bad(format!(
                "tensor `{name}` is said to lie at bytes {begin}..{end} of the data, which has {}{cut}",
                length - data
            )));
        }
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |product, &n| product.checked_mul(n));
        if bits.is_none_or(|bits| bits % 8 != 0 || bits / 8 != end - begin) {
            return Err(bad(format!(
                "tensor `{name}` of shape {:?} and type {} does not fill its {} bytes",
                info.shape,
                info.dtype,
                end - begin
            )));
        }
    }
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| {
        use safetensors::SafeTensorError::{InvalidOffset, MetadataIncompleteBuffer};
        bad(match e {
            InvalidOffset(name) => format!("tensor `{name}` overlaps another, or leaves a gap before it"),
            MetadataIncompleteBuffer => {
                format!("bytes after the last tensor: the file has {length}, more than its header describes")
            }
            e => e.to_string(),
        })
    })?;
    let at = |offset: usize| data + offset;
    let stored = |(name, info): (String, TensorInfo)| {
        let (begin, end) = info.data_offsets;
        Stored { name, dtype: info.dtype, shape: info.shape, range: at(begin)..at(end), quantised: None }
    };
    let metadata = metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    Ok((entries.into_iter().map(stored).collect(), metadata))
}

/// The header's entries in its own order, those that occur twice included, without `__metadata__`.
fn entries(header: &[u8]) -> Result<Vec<(String, TensorInfo)>, serde_json::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<(String, TensorInfo)>;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("an object of tensors")
        }
        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut entries = Vec::new();
            while let Some(name) = map.next_key::<String>()? {
                if name == "__metadata__" {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                let info = map.next_value().map_err(|e| serde::de::Error::custom(format!("tensor `{name}`: {e}")))?;
                entries.push((name, info));
            }
            Ok(entries)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_slice(header);
    let entries = deserializer.deserialize_map(Entries)?;
    deserializer.end()?;
    Ok(entries)
}
