//! What a folder is that is no model which can run, and what to do about it.

use std::path::Path;

use serde_json::Value;

use super::ModelSource;
use crate::error::printable;

const TORCH_INDEX: &str = "pytorch_model.bin.index.json";

/// What was found, and the next step.
type Finding = (String, String);

impl ModelSource {
    /// What the folder holds in place of config.json.
    pub(crate) fn instead_of_config(&self) -> Finding {
        let usual = || {
            let help = "Pass the folder that holds config.json, the weights and tokenizer.json.";
            ("no such file".to_string(), help.to_string())
        };
        match self {
            Self::Folder(folder) => Folder::new(folder).another_kind().unwrap_or_else(usual),
            Self::Bundled(_) => usual(),
        }
    }

    /// What the folder holds in place of model.safetensors.
    pub(crate) fn instead_of_weights(&self) -> Finding {
        let usual = || {
            let help = "Pass the folder that holds the weights, or download them.";
            ("neither".to_string(), help.to_string())
        };
        match self {
            Self::Folder(folder) => {
                let folder = Folder::new(folder);
                folder.another_kind().or_else(|| folder.other_weights()).unwrap_or_else(usual)
            }
            Self::Bundled(_) => usual(),
        }
    }
}

struct Folder<'a> {
    path: &'a Path,
    /// Sorted.
    names: Vec<String>,
}

impl<'a> Folder<'a> {
    fn new(path: &'a Path) -> Self {
        let names = path.read_dir().into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
        names.sort();
        Self { path, names }
    }

    fn find(&self, is: impl Fn(&str) -> bool) -> Option<&str> {
        self.names.iter().map(String::as_str).find(|name| is(name))
    }

    /// A folder that is something else than a Hugging Face model.
    fn another_kind(&self) -> Option<Finding> {
        let got = |name: &str, what: &str| format!("{what} ({})", printable(name));
        if let Some(name) =
            self.find(|name| name == "adapter_config.json" || name.starts_with("adapter_model."))
        {
            let help = format!(
                "An adapter (LoRA) is a change to a model{}: merge it into that with Python, then pass the new folder: \
                 from peft import AutoPeftModelForCausalLM as M; M.from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW)",
                self.base_of_adapter()
            );
            return Some((got(name, "only an adapter"), help));
        }
        if let Some(name) = self.find(|name| name == "model_index.json") {
            let help = "Pass the folder of a LLaMA or OPT model.";
            return Some((got(name, "a pipeline of diffusers"), help.into()));
        }
        let weights = |name: &str| name.ends_with(".safetensors") || name.ends_with(".bin");
        let original = |name: &str| name.starts_with("consolidated.");
        if let Some(name) = self.find(original)
            && self.find(|name| weights(name) && !original(name)).is_none()
        {
            let help = "Download the same model in the format of Hugging Face transformers, or convert it with the script \
                        convert_llama_weights_to_hf.py of transformers.";
            return Some((got(name, "only its makers' own format"), help.into()));
        }
        if let Some(name) = self.find(|name| name.ends_with(".gguf"))
            && self.find(weights).is_none()
        {
            let help = "GGUF is not read, and most such files are quantized: download the model's own safetensors files.";
            return Some((got(name, "only a file of llama.cpp"), help.into()));
        }
        if self.names.is_empty() {
            let help =
                "Pass the folder that holds config.json, the weights and tokenizer.json, or download them.";
            return Some(("an empty folder".into(), help.into()));
        }
        if self.find(|name| name == "config.json").is_none()
            && let Some(name) = self.find(|name| self.path.join(name).join("config.json").is_file())
        {
            let help = format!("Pass {}.", shown(&self.path.join(name)));
            return Some((format!("one in the folder {} inside it", printable(name)), help));
        }
        self.in_cache()
    }

    /// Weights of a Hugging Face model in a form that is not read.
    fn other_weights(&self) -> Option<Finding> {
        if let Some(name) = self.find(|name| name == "quantize_config.json" || name == "quant_config.json") {
            let help = "Use the model that is not quantized; pruning needs its weights in F32, F16 or BF16.";
            return Some((
                format!("quantized weights, going by {} (GPTQ, AWQ or the like)", printable(name)),
                help.into(),
            ));
        }
        let only = |name: &str| format!("only {}", printable(name));
        let is_shard = |name: &str, end: &str| name.contains("-of-") && name.ends_with(end);
        let index_missing = |name: &str, index: &str| {
            let help =
                format!("Download {index} from where the model is: it says which shards belong to it.");
            (format!("shards such as {} without {index}", printable(name)), help)
        };
        if let Some(name) = self.find(|name| is_shard(name, ".safetensors")) {
            return Some(index_missing(name, "model.safetensors.index.json"));
        }
        if let Some(name) = self.find(|name| name == "pytorch_model.bin" || name == TORCH_INDEX) {
            let help = format!("Convert it once: probeprune convert {}", self.path.display());
            return Some((only(name), help));
        }
        if let Some(name) = self.find(|name| is_shard(name, ".bin")) {
            return Some(index_missing(name, TORCH_INDEX));
        }
        if let Some(name) = self.find(|name| name.ends_with(".safetensors")) {
            let help = "Rename it to model.safetensors if it holds this model's weights.";
            return Some((only(name), help.into()));
        }
        const ENDS: &[&str] = &[".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx"];
        let name = self.find(|name| ENDS.iter().any(|end| name.ends_with(end)))?;
        let help = "Convert it once with Python: from transformers import AutoModelForCausalLM as M; \
                    M.from_pretrained(FOLDER).save_pretrained(FOLDER, safe_serialization=True)";
        Some((format!("{}, a format that is not read", only(name)), help.into()))
    }

    /// A snapshot of the Hugging Face cache without all of its files.
    fn in_cache(&self) -> Option<Finding> {
        let snapshots = self.path.parent().filter(|parent| parent.ends_with("snapshots"))?;
        let is_whole = |folder: &Path| {
            let has = |name: &str| folder.join(name).exists();
            has("config.json") && (has("model.safetensors") || has("model.safetensors.index.json"))
        };
        if is_whole(self.path) || self.other_weights().is_some() {
            return None;
        }
        let mut others: Vec<_> =
            snapshots.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        others.sort();
        let other = others.iter().find(|folder| is_whole(folder));
        let other = other.map_or_else(String::new, |folder| format!(", or pass the older {}", shown(folder)));
        let name = ModelSource::Folder(self.path.to_path_buf()).name();
        let got = "a snapshot of the Hugging Face cache without them".to_string();
        Some((got, format!("Finish the download: hf download {}{other}.", printable(&name))))
    }

    /// The model that an adapter belongs to, for a message.
    fn base_of_adapter(&self) -> String {
        let read = |name: &str| ModelSource::Folder(self.path.to_path_buf()).read(name).ok().flatten();
        let config = read("adapter_config.json").and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        let base = config.as_ref().and_then(|config| config["base_model_name_or_path"].as_str());
        base.map_or_else(String::new, |base| format!(", {}", printable(base)))
    }
}

/// A path with names from a disk, for a message.
fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}
