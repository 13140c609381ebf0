//! `convert`: from PyTorch's file to a measured model in two commands.

use std::{fs, path::Path};

use probeprune::output::{OutTensor, write_safetensors};

use crate::{common::models::Folder, path, refused, stdout};

#[test]
fn a_torch_model_runs_in_two_commands() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let opt = tests.join("golden/transformers-logits/opt");
    let folder = Folder::empty();
    folder.write("config.json", fs::read(opt.join("config.json")).unwrap());
    folder.write("pytorch_model.bin", fs::read(tests.join("torch-files/opt/pytorch_model.bin")).unwrap());
    let tokens = folder.file("tokens.safetensors");
    let ids: Vec<u32> = (0..48).map(|i| 3 + i * 7 % 31).collect();
    write_safetensors(&tokens, &[("ids".into(), OutTensor::i32(&ids))], None).unwrap();
    let tokens = format!("{}:ids", tokens.display());
    let perplexity = |model: &Path| {
        let args = [
            "perplexity",
            "--model",
            path(model),
            "--tokens",
            &tokens,
            "--seq-len",
            "16",
            "--format",
            "json",
        ];
        let report = stdout(args);
        report.lines().find(|line| line.contains("\"perplexity\"")).unwrap().to_string()
    };
    let model = path(folder.path());
    refused(&["inspect", "--model", model], &["only \"pytorch_model.bin\"", "probeprune convert", model]);
    let said = stdout(["convert", model]);
    assert!(said.starts_with(path(&folder.file("model.safetensors"))), "{said}");
    assert!(
        said.contains("36 tensors, 0.0 MB") && said.contains(&format!("--model {model} --text FILE")),
        "{said}"
    );
    assert_eq!(perplexity(folder.path()), perplexity(&opt));
    refused(
        &["convert", model],
        &["model.safetensors: output: expected no such file yet", "nothing was written"],
    );
    refused(&["convert", "bundled:tiny-opt"], &["FOLDER: expected a model's folder"]);
    refused(&["convert", "/nowhere"], &["tried: folder \"/nowhere\" (not there)"]);
}
