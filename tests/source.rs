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

/// In the order and with the expansions of huggingface_hub's constants.py.
#[test]
fn the_cache_folder_is_huggingface_hubs() {
    let root = Folder::empty();
    let base = root.path().to_str().unwrap().to_string();
    for place in
        ["a", "b/hub", "c/huggingface/hub", "home/.cache/huggingface/hub", "home/x", "it's/y.z/hub", "$none"]
    {
        root.write(&format!("{place}/models--m/refs/main"), "r");
        root.write(&format!("{place}/models--m/snapshots/r/config.json"), "{}");
    }
    let home = format!("{base}/home");
    let found = |variables: &[(&str, &str)], place: &str| {
        let set = |name: &str| match name {
            "BASE" => Some(OsString::from(&base)),
            "HOME" => Some(OsString::from(&home)),
            _ => variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value)),
        };
        let source =
            ModelSource::locate_with_env("m", set).unwrap_or_else(|error| panic!("{variables:?}: {error}"));
        let expected = root.file(&format!("{place}/models--m/snapshots/r/config.json"));
        assert_eq!(source.path_of("config.json"), expected, "{variables:?}");
    };
    found(&[], "home/.cache/huggingface/hub");
    found(&[("HF_HOME", "")], "home/.cache/huggingface/hub");
    found(&[("XDG_CACHE_HOME", "$BASE/c")], "c/huggingface/hub");
    found(&[("XDG_CACHE_HOME", "$BASE/c"), ("HF_HOME", "$BASE/b")], "b/hub");
    found(&[("HF_HOME", "$BASE/b"), ("HUGGINGFACE_HUB_CACHE", "$BASE/a")], "a");
    found(&[("HUGGINGFACE_HUB_CACHE", "$BASE/b/hub"), ("HF_HUB_CACHE", "${BASE}/a")], "a");
    found(&[("HF_HUB_CACHE", "~/x")], "home/x");
    found(&[("HUGGINGFACE_HUB_CACHE", "~/x")], "home/x");
    found(&[("HF_HOME", "~/../b")], "home/../b/hub");
    found(&[("HF_HOME", "${BASE}/it's/y.z")], "it's/y.z/hub");
    found(&[("HF_HUB_CACHE", "$BASE/$none")], "$none");
    found(&[("HF_HUB_CACHE", "$HOME/x")], "home/x");
    let refused =
        ModelSource::locate_with_env("m", |name| (name == "HF_HUB_CACHE").then(|| "~other/${".into()));
    assert_error(refused, &["local Hugging Face cache ~other/${ (not there)"]);
}

/// A folder of the cache stands for its main revision; where that is missing, the message lists those that are there.
#[test]
fn repositories_of_the_cache() {
    let cache = Folder::empty();
    let path = |name: &str| cache.file(name).to_str().unwrap().to_string();
    cache.write("models--org--m/refs/main", "r1");
    cache.write("models--org--m/snapshots/r1/config.json", "{}");
    let source = ModelSource::locate(&path("models--org--m")).unwrap();
    assert_eq!(
        (source.name(), source.path_of("x")),
        ("org/m".into(), cache.file("models--org--m/snapshots/r1/x"))
    );

    cache.write("models--org--other/refs/pr/1", "r2\n");
    cache.write("models--org--other/refs/v1", "r1");
    for revision in ["r1", "r2", "0a1b"] {
        cache.write(&format!("models--org--other/snapshots/{revision}/config.json"), "{}");
    }
    let snapshots = path("models--org--other/snapshots");
    let there = [
        "no refs/main, only \"0a1b\", \"r1\" (\"v1\"), \"r2\" (\"pr/1\") in ",
        &snapshots,
        "pass that folder",
    ];
    assert_error(locate("org/other", &[("HF_HUB_CACHE", &cache)]), &there);
    assert_error(ModelSource::locate(&path("models--org--other")), &there);
    cache.write("models--org--other/refs/main", "gone");
    assert_error(ModelSource::locate(&path("models--org--other")), &["no snapshot \"gone\", only \"0a1b\""]);
    assert_eq!(ModelSource::locate(&path("models--org--other/snapshots/r2")).unwrap().name(), "org/other");
    for number in 0..20 {
        cache.write(&format!("models--org--many/snapshots/{number:02}/config.json"), "{}");
    }
    assert_error(ModelSource::locate(&path("models--org--many")), &["\"07\" and others in"]);
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
