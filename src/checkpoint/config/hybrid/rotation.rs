//! Rotary positions, as transformers' `modeling_rope_utils.py` takes them from a config.

use super::reader::Reader;
use crate::checkpoint::config::Family;
use crate::checkpoint::LoadError;
use crate::model::blocks::attention::{Rope, RopeScaling};
use serde_json::Value;

const PARTIAL: &str = "partial_rotary_factor";

impl Reader<'_> {
    /// transformers 5 has all of it in `rope_parameters`, configs before it in `rope_theta` and `rope_scaling`, which counts first.
    /// `part`: which part of a head is rotated, where the config does not say.
    pub(super) fn rope(&self, part: f64, head_dim: usize) -> Result<Rope, LoadError> {
        let scaling = self.raw.object("rope_scaling")?.is_some_and(|o| !o.is_empty());
        let object = if scaling { "rope_scaling" } else { "rope_parameters" };
        let stated = self.raw.object(object)?;
        if stated.is_some_and(|o| o.values().any(Value::is_object)) {
            return Err(self.unsupported(object, "rotations that differ from layer to layer"));
        }
        let inside = |key: &str| self.number(&format!("{object}.{key}"));
        let needed = |key: &str| {
            let missing = || self.missing(&format!("{object}.{key}"), "it must be a finite number above 0");
            inside(key)?.ok_or_else(missing)
        };
        let (kind, kind_key) = match self.raw.string(&format!("{object}.rope_type"))? {
            Some(kind) => (kind, format!("{object}.rope_type")),
            None => (self.raw.string(&format!("{object}.type"))?.unwrap_or("default"), format!("{object}.type")),
        };
        let dims = self.rotated(object, (kind, part), head_dim)?;
        let longest = || match self.number("max_position_embeddings")? {
            Some(longest) => Ok(longest),
            None => Err(self.missing("max_position_embeddings", "it must be a finite number above 0")),
        };
        // One beside the object counts before one in it.
        let key = "original_max_position_embeddings";
        let original = || match self.number(key)? {
            Some(original) => Ok(original),
            None => inside(key)?.map_or_else(longest, Ok),
        };
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: needed("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: needed("factor")?,
                low: needed("low_freq_factor")?,
                high: needed("high_freq_factor")?,
                original: original()?,
            },
            "yarn" => {
                let factor = match stated.and_then(|o| o.get("factor")) {
                    // Only null means it.
                    Some(Value::Null) => longest()? / original()?,
                    _ => needed("factor")?,
                };
                let mscale = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
                let attention = match (inside("attention_factor")?, inside("mscale")?, inside("mscale_all_dim")?) {
                    (Some(attention), ..) => attention,
                    (None, Some(some), Some(all)) => mscale(some) / mscale(all),
                    _ => mscale(1.0),
                };
                RopeScaling::Yarn {
                    factor,
                    fast: inside("beta_fast")?.unwrap_or(32.0),
                    slow: inside("beta_slow")?.unwrap_or(1.0),
                    original: original()?,
                    attention,
                    truncate: self.raw.flag(&format!("{object}.truncate"))?.unwrap_or(true),
                }
            }
            _ => return Err(self.unsupported(&kind_key, "rotations of a kind that is not known here")),
        };
        let theta = match inside("rope_theta")? {
            Some(theta) => theta,
            None => self.number("rope_theta")?.unwrap_or(10000.0),
        };
        let rope = Rope { theta, dims, scaling };
        if !rope.frequencies().iter().chain([&rope.factor()]).all(|x| x.is_finite()) {
            return Err(self.unsupported(object, "with these numbers its frequencies are not finite"));
        }
        Ok(rope)
    }

    /// How many of a head's channels are rotated. Without scaling only Bamba's class reads which part it is; with it all do, but the
    /// others then fail on any part that is not the whole.
    fn rotated(&self, object: &str, (kind, part): (&str, f64), head_dim: usize) -> Result<usize, LoadError> {
        let bamba = self.family == Family::Bamba;
        let mut key = format!("{object}.{PARTIAL}");
        let part = match self.number(&key) {
            // What Bamba's config says beside that object is overwritten by its class.
            _ if kind == "default" && !bamba => 1.0,
            stated => match stated? {
                Some(stated) => stated,
                None if bamba => part,
                None => {
                    key = PARTIAL.into();
                    self.number(&key)?.unwrap_or(part)
                }
            },
        };
        let dims = (head_dim as f64 * part) as usize;
        if !bamba && dims != head_dim {
            return Err(self.unsupported(&key, "such models rotate whole heads"));
        }
        if dims == 0 || dims > head_dim || !dims.is_multiple_of(2) {
            let reason = "an even number of a head's channels is rotated, and not more than it has";
            let (file, value) = (self.raw.file.clone(), format!("{head_dim}, of which {part} is rotated"));
            return Err(LoadError::UnsupportedOption { file, key: "head_dim".into(), value, reason });
        }
        Ok(dims)
    }

    fn number(&self, key: &str) -> Result<Option<f64>, LoadError> {
        let Some(value) = self.raw.get(key) else { return Ok(None) };
        let valid = value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        valid.map(Some).ok_or_else(|| self.raw.bad_value(key, value, "it must be a finite number above 0"))
    }
}
