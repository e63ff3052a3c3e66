//! What the library that tokenises would notice by a panic: looked for before, and caught where it comes all the same.

use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;

/// The parts of a tokenizer.json in which something is looked for. (The vocabulary, which is nearly all of it, is passed over.)
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: Option<Model>,
}

#[derive(Deserialize)]
struct Model {
    continuing_subword_prefix: Option<Value>,
}

#[derive(Deserialize)]
struct WithMerges {
    model: Merges,
}

#[derive(Deserialize)]
struct Merges {
    #[serde(default)]
    merges: Vec<Value>,
}

/// What is wrong with a tokenizer.json that the library would take, or try to. What is no such file is left to the library.
pub(super) fn unsound(json: &[u8]) -> Option<String> {
    let parts: Parts = serde_json::from_slice(json).ok()?;
    let named =
        [("normalizer", &parts.normalizer), ("pre_tokenizer", &parts.pre_tokenizer), ("decoder", &parts.decoder)];
    let within = named.iter().find_map(|(name, value)| Some(format!("`{name}`: {}", of_part(value)?)));
    within.or_else(|| {
        let prefix = parts.model?.continuing_subword_prefix?;
        prefix_beyond(json, prefix.as_str().filter(|prefix| !prefix.is_empty())?)
    })
}

/// The same of a part, and of those within it.
fn of_part(part: &Value) -> Option<String> {
    match part {
        Value::Array(parts) => parts.iter().find_map(of_part),
        Value::Object(map) => {
            let wrong = match part["type"].as_str() {
                Some("Precompiled") => part["precompiled_charsmap"].as_str().and_then(damaged_charsmap),
                Some("Replace") if ["String", "Regex"].iter().any(|kind| part["pattern"][*kind] == "") => {
                    Some("a Replace with an empty pattern".into())
                }
                Some("FixedLength") if part["length"] == 0 => Some("a FixedLength of 0".into()),
                _ => None,
            };
            wrong.or_else(|| map.values().find_map(of_part))
        }
        _ => None,
    }
}

/// Merges whose second token is cut off by as many bytes as the prefix has.
fn prefix_beyond(json: &[u8], prefix: &str) -> Option<String> {
    let merges = serde_json::from_slice::<WithMerges>(json).ok()?.model.merges;
    let second = |merge: &Value| match merge {
        Value::String(pair) => pair.split_once(' ').map(|(_, second)| second.to_owned()),
        pair => pair[1].as_str().map(str::to_owned),
    };
    let short = merges.iter().filter_map(second).find(|token| token.get(prefix.len()..).is_none())?;
    Some(format!("`model`: its continuing_subword_prefix, {prefix:?}, does not fit the merge with {short:?}"))
}

/// SentencePiece's table of replacements: a double array whose every path must stay within it, and the texts that its leaves point to.
fn damaged_charsmap(text: &str) -> Option<String> {
    let damaged = || Some("its precompiled_charsmap is damaged".to_owned());
    let Ok(bytes) = base64::decode(text) else { return None }; // which the library says itself
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else { return damaged() };
    let size = u32::from_le_bytes(*size) as usize / 4 * 4;
    let Some((array, texts)) = rest.split_at_checked(size) else { return damaged() };
    let units: Vec<u32> = array.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let (Some(&root), Ok(texts)) = (units.first(), std::str::from_utf8(texts)) else { return damaged() };
    let offset = |unit: u32| ((unit >> 10) as usize) << ((unit & (1 << 9)) >> 6);
    let mut seen = HashSet::new();
    let mut open = vec![offset(root)];
    while let Some(node) = open.pop() {
        for byte in 1..=255u32 {
            let at = node ^ byte as usize;
            let Some(&unit) = units.get(at) else { return damaged() };
            if unit & (1 << 31 | 0xff) != byte || !seen.insert(at) {
                continue;
            }
            let next = at ^ offset(unit);
            if unit >> 8 & 1 == 1 {
                let text = units.get(next).and_then(|leaf| texts.get((leaf & !(1 << 31)) as usize..));
                if text.is_none() {
                    return damaged();
                }
            }
            open.push(next);
        }
    }
    None
}

/// Does something with a tokenizer, and gives the message of a panic in it.
#[cfg(panic = "unwind")]
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    use std::cell::Cell;
    use std::panic::{catch_unwind, set_hook, take_hook, AssertUnwindSafe};
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: std::sync::Once = std::sync::Once::new();
    // Nothing of it is to be printed. All other panics are told as before.
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                before(panic);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(outer);
    done.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        format!("the tokenizers library fails with it ({})", text.unwrap_or("without a reason"))
    })
}

/// Where a panic ends the program there is nothing to catch.
#[cfg(not(panic = "unwind"))]
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    Ok(work())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_would_panic_are_found() {
        let charsmap = |bytes: &[u8]| base64::encode(bytes);
        // An array of which every unit leads back to itself is whole; one that leads beyond its end is not.
        let whole = [&(1024u32.to_le_bytes())[..], &[0; 1024], b"ab\0"].concat();
        let beyond = [&(8u32.to_le_bytes())[..], &[0xff; 8]].concat();
        let cut = [&(u32::MAX.to_le_bytes())[..], &[0; 8]].concat();
        for (normalizer, wrong) in [
            (format!(r#"{{"type": "Precompiled", "precompiled_charsmap": "{}"}}"#, charsmap(&whole)), false),
            (format!(r#"{{"type": "Precompiled", "precompiled_charsmap": "{}"}}"#, charsmap(&beyond)), true),
            (format!(r#"{{"type": "Precompiled", "precompiled_charsmap": "{}"}}"#, charsmap(&cut)), true),
            (r#"{"type": "Precompiled", "precompiled_charsmap": ""}"#.into(), true),
            (r#"{"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": ""}}]}"#.into(), true),
            (r#"{"type": "Replace", "pattern": {"String": " "}, "content": ""}"#.into(), false),
            (r#"{"type": "FixedLength", "length": 0}"#.into(), true),
            (r#"{"type": "FixedLength", "length": 3}"#.into(), false),
            ("null".into(), false),
        ] {
            let json = format!(r#"{{"normalizer": {normalizer}, "model": {{"type": "BPE", "vocab": {{}}}}}}"#);
            assert_eq!(unsound(json.as_bytes()).is_some(), wrong, "{json}");
        }
        let model = |prefix, merge| {
            format!(r#"{{"model": {{"continuing_subword_prefix": "{prefix}", "merges": [["a", "b"], {merge}]}}}}"#)
        };
        assert!(unsound(model("##", r#"["a", "b"]"#).as_bytes()).unwrap().contains("\"b\""));
        assert!(unsound(model("", r#"["a", "b"]"#).as_bytes()).is_none());
        assert!(unsound(b"no JSON").is_none());
    }

    #[cfg(panic = "unwind")]
    #[test]
    fn a_panic_is_an_error_with_its_words() {
        assert_eq!(guarded(|| 7), Ok(7));
        let nothing: Vec<u32> = Vec::new();
        let error = guarded(|| nothing[3]).unwrap_err();
        assert!(error.contains("index out of bounds"), "{error}");
    }
}
