//! What a file is that is not what its name promises: downloads that brought something else, other formats.

/// In words, what a file's bytes are, and what to do. `None` where they tell nothing.
pub(crate) fn sniff(bytes: &[u8]) -> Option<(String, &'static str)> {
    const AGAIN: &str = "download it again";
    let start = &bytes[..bytes.len().min(4096)];
    for (magic, what, advice) in MAGIC {
        if start.starts_with(magic) {
            return Some((what.into(), advice));
        }
    }
    // Latin letters, without a byte order mark.
    if start.len() >= 8 && start[..8].chunks_exact(2).all(|pair| pair[0] != 0 && pair[1] == 0) {
        return Some(("text in UTF-16".into(), "save it as UTF-8"));
    }
    // A whole header of zeros: a safetensors file begins with its header's length.
    if start.len() >= 16 && start.iter().all(|&b| b == 0) {
        return Some(("nothing but zeros (a download that stopped after its space was reserved)".into(), AGAIN));
    }
    if is_safetensors(bytes) {
        return Some(("a safetensors file".into(), "files have been mixed up: put each where it belongs"));
    }
    let text = trim_bom(start);
    // A cut may go through a character.
    let text =
        std::str::from_utf8(text).unwrap_or_else(|e| std::str::from_utf8(&text[..e.valid_up_to()]).unwrap_or(""));
    let text = text.trim_start();
    if let Some(pointer) = text.strip_prefix("version https://git-lfs") {
        let size = pointer.lines().find_map(|line| line.strip_prefix("size ")).unwrap_or("?");
        let what = format!("a git-lfs pointer, a few lines that stand for a file of {size} bytes");
        return Some((what, "run `git lfs pull` in the repository's folder, or download the file itself"));
    }
    let lower: String = text.chars().take(512).collect::<String>().to_lowercase();
    if ["<!doctype html", "<html", "<head"].iter().any(|tag| lower.contains(tag)) && text.starts_with('<') {
        const PAGE: &str =
            "a page came in place of the download, most often since the model asks for a login or for its licence to \
             be accepted: do that, then download it again";
        return Some(("a web page".into(), PAGE));
    }
    if text.starts_with("<?xml") || text.starts_with("<Error") {
        return Some(("a server's answer in XML".into(), "the download was refused: download it again"));
    }
    let is_text =
        bytes.len() < 4096 && text.len() >= 8 && !text.contains(|c: char| c.is_control() && !c.is_whitespace());
    if is_text && text.starts_with('{') {
        if let Some(error) = error_body(text) {
            return Some((
                format!("a server's error message ({error})"),
                "the download was refused: download it again",
            ));
        }
    } else if is_text && text.len() < 512 && REFUSALS.iter().any(|word| lower.contains(word)) {
        let line: String = text.lines().next().unwrap_or_default().chars().take(80).collect();
        return Some((format!("a short text ({line:?})"), AGAIN));
    }
    None
}

/// The same as a sentence, and of a file without anything in it.
pub(crate) fn instead(bytes: &[u8]) -> Option<String> {
    match bytes {
        [] => Some("the file is empty (0 bytes): download it again".into()),
        _ => sniff(bytes).map(|(what, advice)| format!("it is {what}: {advice}")),
    }
}

const MAGIC: [(&[u8], &str, &str); 12] = [
    (b"GGUF", "a GGUF file", GGUF_ADVICE),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"\xfd7zXZ\0", "an xz archive", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it"),
    (b"PK\x03\x04", "a zip archive, as PyTorch writes its weights", RENAME),
    (b"\x80\x02", "a Python pickle", RENAME),
    (b"\x80\x03", "a Python pickle", RENAME),
    (b"\x80\x04", "a Python pickle", RENAME),
    (b"\x80\x05", "a Python pickle", RENAME),
    (b"\x89HDF", "an HDF5 file, as Keras writes its weights", "take the model's safetensors"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
];

/// Words of servers that say in a line why there is no file.
const REFUSALS: [&str; 8] =
    ["not found", "unauthorized", "forbidden", "denied", "restricted", "invalid ", "expired", "rate limit"];

const RENAME: &str =
    "if these are PyTorch weights, call the file pytorch_model.bin and open its folder: how to convert it is then said";

/// What is to be said of GGUF wherever it is met.
pub(crate) const GGUF_ADVICE: &str =
    "GGUF is not read yet: take the model's safetensors, from the repository that the GGUF was made from";

/// Text without a byte order mark.
pub(crate) fn trim_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Whether the bytes begin as a safetensors file does: the header's length, and the header's first brace.
pub(crate) fn is_safetensors(bytes: &[u8]) -> bool {
    let Some(length) = bytes.first_chunk::<8>().map(|n| u64::from_le_bytes(*n)) else { return false };
    bytes.get(8) == Some(&b'{') && length < 100_000_000
}

/// The message of a JSON object that a server answers with in place of a file.
pub(crate) fn error_body(json: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    let object = value.as_object().filter(|object| object.len() <= 4)?;
    let message = ["error", "detail", "message"].iter().find_map(|key| object.get(*key))?;
    Some(message.to_string().chars().take(80).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_what_they_are_called() {
        for (bytes, word) in [
            (&b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9114344\n"[..], "9114344 bytes"),
            (b"\n<!DOCTYPE html><html><body>Access to model is restricted</body></html>", "web page"),
            (b"\xef\xbb\xbf<html>", "web page"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "XML"),
            (b"{\"error\": \"Invalid credentials\"}", "Invalid credentials"),
            (b"Entry not found", "Entry not found"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"PK\x03\x04rest", "PyTorch"),
            (b"\x80\x02ccollections", "pickle"),
            (b"\x1f\x8b\x08\0", "gzip"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"{\0\"\0a\0\"\0:\0", "UTF-16"),
            (&[0; 64], "zeros"),
            (b"\x02\0\0\0\0\0\0\0{}", "safetensors"),
        ] {
            let (what, advice) = sniff(bytes).unwrap_or_else(|| panic!("{word}"));
            assert!(what.contains(word) && !advice.is_empty(), "{what}");
        }
        for unknown in
            [&b""[..], b"short", b"hidden_size: 3", b"{\"model_type\": \"mamba\"}", b"[1, 2, 3, 4, 5]", &[7; 64]]
        {
            assert_eq!(sniff(unknown), None);
        }
        assert!(instead(b"").unwrap().contains("empty") && instead(b"{}").is_none());
    }
}
