//! The way from Python's pickles to safetensors: never read here, since a pickle can run code.

use super::reading::beginning;
use crate::checkpoint::{sniff::sniff, LoadError};
use std::path::Path;

/// What refuses pickled weights: `path` is what was met, `files` are the .bin files of the model in its folder, in order.
pub(in crate::checkpoint) fn refused(path: &Path, files: &[String]) -> LoadError {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A recipe would not help with a git-lfs pointer or a web page.
    for file in files.iter().map(|file| folder.join(file)) {
        let start = beginning(&file);
        let pickled = start.starts_with(b"PK") || start.starts_with(b"\x80");
        if let Some((what, advice)) = sniff(&start).filter(|_| !pickled) {
            return LoadError::WrongFile {
                file: file.display().to_string(),
                what,
                expected: "pickled weights",
                advice,
            };
        }
    }
    LoadError::PickleOnly { path: path.display().to_string(), recipe: recipe(folder, files) }
}

/// Python that turns pickles into safetensors beside them: one file as `model.safetensors`, several with their index.
fn recipe(folder: &Path, files: &[String]) -> String {
    let adapter = files.iter().any(|file| file.starts_with("adapter_model"));
    let target = match files.len() {
        1 if adapter => "\"adapter_model.safetensors\"".to_owned(),
        1 => "\"model.safetensors\"".to_owned(),
        count => format!("f\"model-{{i + 1:05}}-of-{count:05}.safetensors\""),
    };
    let mut lines = vec![
        "import json, torch".to_owned(),
        "from safetensors.torch import save_file".to_owned(),
        format!("folder, names = {:?}, {{}}", folder.display().to_string()),
        format!("for i, file in enumerate({files:?}):"),
        "    weights = torch.load(f\"{folder}/{file}\", map_location=\"cpu\", weights_only=True)".to_owned(),
        "    weights = weights.get(\"state_dict\", weights)".to_owned(),
        "    weights = {name: w.clone().contiguous() for name, w in weights.items() if torch.is_tensor(w)}".to_owned(),
        format!("    target = {target}"),
        "    save_file(weights, f\"{folder}/{target}\")".to_owned(),
        "    names.update({name: target for name in weights})".to_owned(),
    ];
    match files.len() {
        1 => lines.retain(|line| !line.contains("names.update")),
        _ => {
            lines.push("with open(f\"{folder}/model.safetensors.index.json\", \"w\") as index:".into());
            lines.push("    json.dump({\"metadata\": {}, \"weight_map\": names}, index)".into());
        }
    }
    if files.len() == 1 {
        lines[0] = "import torch".into();
        lines[2] = format!("folder = {:?}", folder.display().to_string());
    }
    let indented: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    format!("    pip install torch safetensors numpy\n    python3 - <<'END'\n{indented}    END\n")
}
