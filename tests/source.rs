//! Where model folders are looked for.

mod common;

use std::ffi::OsString;

use common::{assert_error, models::Folder};
use probeprune::source::ModelSource;

/// Locates with only these environment variables.
fn locate(model: &str, variables: &[(&str, &Folder)]) -> probeprune::Result<ModelSource> {
    ModelSource::locate_with_env(model, |name| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, folder)| folder.path().as_os_str().to_owned())
    })
}

#[test]
fn a_folder() {
    let folder = Folder::llama();
    let source = ModelSource::locate(folder.path().to_str().unwrap()).unwrap();
    assert_eq!(source.path_of("config.json"), folder.file("config.json"));
    assert_eq!(source.name(), folder.path().file_name().unwrap().to_str().unwrap());
    assert_eq!(source.read("config.json").unwrap().unwrap(), folder.read("config.json"));
    assert!(source.read("absent.json").unwrap().is_none());
}

#[test]
fn the_local_cache() {
    let cases = [
        ("HF_HUB_CACHE", ""),
        ("HF_HOME", "hub/"),
        ("XDG_CACHE_HOME", "huggingface/hub/"),
        ("HOME", ".cache/huggingface/hub/"),
    ];
    for (variable, inside) in cases {
        let root = Folder::empty();
        for (id, folder) in [("org/tiny.model-1", "models--org--tiny.model-1"), ("gpt", "models--gpt")] {
            root.write(&format!("{inside}{folder}/refs/main"), "abc123\n");
            root.write(&format!("{inside}{folder}/snapshots/abc123/config.json"), "{}");
            let source = locate(id, &[(variable, &root)]).unwrap();
            assert_eq!(source.name(), id);
            assert_eq!(source.read("config.json").unwrap().unwrap(), &b"{}"[..]);
        }
    }
    let (first, second) = (Folder::empty(), Folder::empty());
    first.write("models--a--b/refs/main", "r");
    first.write("models--a--b/snapshots/r/config.json", "{}");
    assert!(locate("a/b", &[("HF_HOME", &second), ("HF_HUB_CACHE", &first)]).is_ok());
}

#[test]
fn what_is_not_there_lists_what_was_tried() {
    let cache = Folder::empty();
    let cached = &[("HF_HUB_CACHE", &cache)];
    let place = cache.path().to_str().unwrap();
    let parts = [
        "model: expected a folder, bundled:NAME, or org/name",
        "got \"no/model\"; tried: folder \"no/model\" (not there); local Hugging Face cache",
        place,
        "(not there).",
        "download the model first",
    ];
    assert_error(locate("no/model", cached), &parts);
    cache.write("models--no--model/refs/main", "../../etc");
    assert_error(locate("no/model", cached), &["refs/main names no revision: \"../../etc\""]);
    cache.write("models--no--model/refs/main", "abc");
    assert_error(locate("no/model", cached), &["no snapshot \"abc\""]);
    assert_error(locate("bundled:none", cached), &["\"bundled:none\"; tried: folder", "bundled models ("]);
    for model in ["", "a/b/c", "../x", "a/\0", "nul\0", ".."] {
        if model != ".." {
            assert_error(locate(model, cached), &["tried: folder", "not there"]);
        }
    }
}

#[test]
fn a_file_is_not_a_folder() {
    let folder = Folder::llama();
    let file = folder.file("model.safetensors");
    let parts = [
        "expected a folder with config.json and the weights, got",
        "model.safetensors\", which is not a folder.",
        "Pass the folder",
    ];
    assert_error(ModelSource::locate(file.to_str().unwrap()), &parts);
}

#[test]
fn bundles_are_found_by_name() {
    for bundle in probeprune::source::BUNDLES {
        let model = format!("bundled:{}", bundle.name);
        let source = ModelSource::locate_with_env(&model, |_| None::<OsString>).unwrap();
        assert_eq!(source.name(), model);
        for (file, bytes) in bundle.files {
            assert_eq!(source.read(file).unwrap().unwrap(), *bytes);
            assert!(source.path_of(file).starts_with(&model));
        }
        assert!(source.read("absent.json").unwrap().is_none());
    }
}

#[test]
fn huge_text_files_are_refused_unread() {
    let folder = Folder::empty();
    std::fs::File::create(folder.file("config.json")).unwrap().set_len(1 << 40).unwrap();
    let parts = ["config.json: size: expected at most 268435456 bytes, got 1099511627776 bytes.", "Put back"];
    assert_error(folder.source().read("config.json"), &parts);
}
