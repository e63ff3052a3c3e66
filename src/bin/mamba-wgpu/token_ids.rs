//! Lists of token ids, for commands that can do without a tokenizer.

use std::path::PathBuf;

use anyhow::anyhow;

use crate::common::read_text;
use crate::errors::misuse;

#[derive(Debug, clap::Args)]
pub struct TokenIds {
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", group = "input")]
    tokens: Option<String>,
    /// File of token ids: a JSON array, or numbers separated by commas or white space
    #[arg(long, value_name = "FILE", group = "input")]
    tokens_file: Option<PathBuf>,
}

impl TokenIds {
    /// The ids, at least one, and where they come from; `None` where neither flag is given.
    pub fn read(&self) -> anyhow::Result<Option<(Vec<u32>, String)>> {
        let (name, text) = match (&self.tokens, &self.tokens_file) {
            (Some(text), _) => ("--tokens".to_owned(), text.clone()),
            (None, Some(path)) => {
                let name = format!("--tokens-file {}", path.display());
                let text = read_text(&name, path)?;
                (name, text)
            }
            (None, None) => return Ok(None),
        };
        Ok(Some((parse(&text, &name)?, name)))
    }
}

/// Token ids: a JSON array, or numbers separated by commas or white space, perhaps with a comma after the last. `name` says where they
/// come from.
fn parse(text: &str, name: &str) -> anyhow::Result<Vec<u32>> {
    let text = text.trim().trim_start_matches('\u{feff}').trim();
    let tokens = if text.starts_with('[') {
        serde_json::from_str(text).map_err(|error| wrong(name, &format!("not a list of token ids: {error}")))?
    } else {
        let mut tokens = Vec::new();
        for entry in text.strip_suffix(',').unwrap_or(text).split(',') {
            let before = tokens.len();
            for part in entry.split_whitespace() {
                tokens.push(id(part).map_err(|what| wrong(name, &what))?);
            }
            if tokens.len() == before && !text.is_empty() {
                return Err(wrong(name, "an entry is empty: nothing stands before, between or behind commas"));
            }
        }
        tokens
    };
    match tokens.is_empty() {
        true => Err(wrong(name, "no tokens given: the model needs at least one")),
        false => Ok(tokens),
    }
}

fn id(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| match !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) {
        true => format!("{text} is too large for a token id: it must be at most {}", u32::MAX),
        false => format!("{text:?} is not a token id, a whole number"),
    })
}

/// What is wrong with a list: the flag itself, or its file.
fn wrong(name: &str, what: &str) -> anyhow::Error {
    match name {
        "--tokens" => misuse(format!("{name}: {what}")),
        _ => anyhow!("{name}: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_spelling_of_a_list() {
        for text in ["1,2,30", "1 2 30", " [1, 2,\n30]\n", "1,\n2,\t30,\n", "1 , 2 30 ,", "\u{feff}1 2 30"] {
            assert_eq!(parse(text, "x").unwrap(), [1, 2, 30], "{text:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_list_by_name() {
        for (text, says) in [
            ("", "no tokens given"),
            (" ", "no tokens given"),
            ("[]", "no tokens given"),
            (",", "an entry is empty"),
            ("1,,2", "an entry is empty"),
            (",1", "an entry is empty"),
            ("1, ,2", "an entry is empty"),
            ("1,,", "an entry is empty"),
            ("1,x", "\"x\" is not a token id"),
            ("-1", "\"-1\" is not a token id"),
            ("1.5", "is not a token id"),
            ("[1,", "not a list of token ids"),
            ("[\"a\"]", "not a list of token ids"),
            ("{}", "is not a token id"),
            ("4294967296", "at most 4294967295"),
        ] {
            let error = parse(text, "--tokens").unwrap_err().to_string();
            assert!(error.starts_with("--tokens: ") && error.contains(says), "{text:?}: {error}");
        }
    }
}
