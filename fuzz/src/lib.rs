//! Reads what users have from anywhere, one function for each kind of file: any bytes end in a value or an error, never in a
//! panic, within bounds on time and memory. Each returns whether the bytes were accepted.
//!
//! tests/fuzz changes good files and reads them by these functions; `cargo +nightly fuzz run config` and so on, from this
//! folder, let libFuzzer make the bytes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use probeprune::{
    checkpoint::{Checkpoint, TorchFile, map_file, open_file},
    config::ModelConfig,
    prune::calibration::Calibration,
    source::ModelSource,
    tokenizer::Tokenizer,
};
use safetensors::View;
use tempfile::TempDir;

/// The bundled model that histories belong to, and whose tokenizer templates have.
static MODEL: LazyLock<(ModelSource, ModelConfig, String)> = LazyLock::new(|| {
    let source = ModelSource::locate("bundled:tiny-llama").expect("a bundled model");
    let config = ModelConfig::load(&source).expect("its config");
    let fingerprint = Checkpoint::open(&source, false).expect("its weights").fingerprint();
    (source, config, fingerprint)
});

thread_local! {
    static FOLDER: TempDir = {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let tokenizer = MODEL.0.read("tokenizer.json").expect("readable").expect("a tokenizer");
        fs::create_dir(folder.path().join("chat")).expect("a new folder");
        fs::write(folder.path().join("chat/tokenizer.json"), tokenizer).expect("room for a file");
        folder
    };
}

/// The path of a file with these bytes in this thread's folder.
fn written(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.with(|folder| folder.path().join(name));
    fs::write(&path, bytes).expect("room for a temporary file");
    path
}

/// config.json.
pub fn config(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let Ok(config) = ModelConfig::from_json(Path::new("config.json"), text, Some(text)) else { return false };
    if let Some(rope) = config.rope.filter(|_| config.head_dim <= 1 << 12) {
        let (frequencies, _) = rope.inverse_frequencies(config.head_dim, 9, config.max_position_embeddings);
        assert_eq!(frequencies.len(), config.head_dim / 2);
    }
    true
}

/// tokenizer.json.
pub fn tokenizer(bytes: &[u8]) -> bool {
    let path = written("tokenizer.json", bytes);
    let folder = path.parent().expect("in a folder").to_path_buf();
    let Ok(tokenizer) = Tokenizer::load(&ModelSource::Folder(folder), 1 << 20) else { return false };
    if let Ok(ids) = tokenizer.encode("Hello  wörld\n1234 🦀 <s>", true) {
        let _ = tokenizer.decode(&ids, false);
    }
    true
}

/// chat_template.jinja.
pub fn template(bytes: &[u8]) -> bool {
    let path = written("chat/chat_template.jinja", bytes);
    let folder = path.parent().expect("in a folder");
    let Ok(tokenizer) = Tokenizer::load(&ModelSource::Folder(folder.to_path_buf()), 1 << 20) else {
        return false;
    };
    let template = tokenizer.chat_template().expect("it has one");
    let messages = [("system", "Be kind."), ("user", "Hi é"), ("assistant", "Well\nok"), ("user", "And?")];
    template.render(&messages, true).is_ok()
}

/// A history file.
pub fn history(bytes: &[u8]) -> bool {
    let path = written("history.safetensors", bytes);
    let (_, config, fingerprint) = &*MODEL;
    let read = Calibration::read(&path, fingerprint, config).is_ok();
    assert_eq!(read, Calibration::load(&path, fingerprint, config).is_ok(), "mapped or not");
    read
}

/// A safetensors file.
pub fn safetensors(bytes: &[u8]) -> bool {
    let path = written("model.safetensors", bytes);
    let Ok(file) = open_file(&path) else { return false };
    for name in file.names() {
        if let Some(tensor) = file.tensor(name) {
            assert_eq!(tensor.to_f32().len(), tensor.shape().iter().product::<usize>());
        }
        let _ = file.integers(name);
    }
    assert!(map_file(&path).is_ok(), "read, so mapped too");
    true
}

/// pytorch_model.bin.
pub fn torch(bytes: &[u8]) -> bool {
    let path = written("pytorch_model.bin", bytes);
    let Ok(file) = TorchFile::open(&path) else { return false };
    for name in file.names() {
        let tensor = file.tensor(name).expect("one of its names");
        assert_eq!((&tensor).data().len(), (&tensor).data_len());
    }
    true
}
