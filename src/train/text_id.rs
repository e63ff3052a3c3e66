//! Which text a run learns from, so that it goes on with the same one.

use super::TrainError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// A text by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextId {
    /// Its path when the run began, for messages.
    pub file: String,
    pub bytes: u64,
    /// Of its UTF-8, in hexadecimal.
    pub sha256: String,
}

impl TextId {
    pub fn of(file: &str, text: &str) -> Self {
        let sha256 = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { file: file.into(), bytes: text.len() as u64, sha256 }
    }

    /// Whether `now` is the same text, wherever it lies; `what` is what messages call it.
    ///
    /// # Errors
    /// [`TrainError::OtherText`].
    pub fn check(&self, what: &'static str, now: &TextId) -> Result<(), TrainError> {
        match (self.bytes, &self.sha256) == (now.bytes, &now.sha256) {
            true => Ok(()),
            false => Err(TrainError::OtherText { what, began: self.to_string(), now: now.to_string() }),
        }
    }
}

impl fmt::Display for TextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes, sha256 {})", self.file, self.bytes, self.sha256.get(..12).unwrap_or(&self.sha256))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_its_content() {
        let began = TextId::of("a.txt", "It is a truth");
        assert_eq!(began.sha256, "653e30f1e283a7f13fb1548b18e76c11b9b4cb0059e10c14f40d79eb9ca11afd");
        began.check("--text", &TextId::of("moved/b.txt", "It is a truth")).unwrap();
        for other in ["It is a trutH", "It is a truth ", ""] {
            let message = began.check("--text", &TextId::of("b.txt", other)).unwrap_err().to_string();
            assert!(["--text", "a.txt (13 bytes", "b.txt ("].iter().all(|part| message.contains(part)), "{message}");
        }
    }
}
