//! The text as it is shown: what was given, and what the model wrote.

/// A stretch of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub text: String,
    pub generated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document(Vec<Segment>);

impl Document {
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn whole(&self) -> String {
        self.0.iter().map(|segment| segment.text.as_str()).collect()
    }

    /// Its last words.
    pub fn ending(&self) -> String {
        let all = self.whole();
        let words: Vec<&str> = all.split_whitespace().collect();
        words[words.len().saturating_sub(8)..].join(" ")
    }

    /// Makes the text what the worker says it is, keeping what is known of its parts.
    pub fn show(&mut self, text: String) {
        let mut rest = text.as_str();
        let mut kept = Vec::new();
        for mut segment in std::mem::take(&mut self.0) {
            let common = rest.strip_prefix(segment.text.as_str());
            if let Some(after) = common {
                rest = after;
                kept.push(segment);
                continue;
            }
            // It was cut within this stretch.
            let same = segment.text.char_indices().zip(rest.chars()).take_while(|((_, a), b)| a == b);
            let end = same.last().map_or(0, |((at, c), _)| at + c.len_utf8());
            segment.text.truncate(end);
            rest = &rest[end..];
            if !segment.text.is_empty() {
                kept.push(segment);
            }
            break;
        }
        let rest = rest.to_owned();
        self.0 = kept;
        self.push(&rest, false);
    }

    pub fn push(&mut self, text: &str, generated: bool) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(last) if last.generated == generated => last.text += text,
            _ => self.0.push(Segment { text: text.into(), generated }),
        }
    }
}

#[cfg(test)]
impl From<Vec<Segment>> for Document {
    fn from(segments: Vec<Segment>) -> Self {
        Self(segments)
    }
}
