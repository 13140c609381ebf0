//! Every feature of the supported architectures against logits that Hugging Face transformers computed
//! (tests/golden/transformers-logits, made by tools/golden/make_transformers_logits.py), padded tokens left out.

use std::{path::Path, sync::Arc};

use probeprune::{
    checkpoint::{open_file, read_tensor_file},
    cpu::Cpu,
    model::Model,
    prune::settings::Settings,
    session::{Limits, Session},
    source::ModelSource,
};

#[test]
fn logits_agree_with_transformers_for_every_feature() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/transformers-logits");
    let cpu = Arc::new(Cpu::new(2).unwrap());
    let mut folders: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 27, "{} folders", folders.len());
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let file = folder.join("reference.safetensors");
        let integers = |key: &str| -> (usize, Vec<u32>) {
            let (shape, values) = read_tensor_file(&file, key).expect(key);
            (shape[0], values.into_iter().map(|x| x as u32).collect())
        };
        let (samples, tokens) = integers("tokens");
        let (_, mask) = integers("mask");
        let expected = open_file(&file).unwrap().tensor("logits").expect("logits").to_f32();

        let model = Model::load(&ModelSource::Folder(folder), true, Arc::clone(&cpu), |_| ());
        let model = Arc::new(model.unwrap_or_else(|error| panic!("{name}: {error}")));
        let limits = Limits { samples, tokens: tokens.len() / samples, capacity: 0 };
        let mut session = Session::new(
            Arc::clone(&model),
            Settings::default_for(model.config.num_hidden_layers),
            limits,
            None,
        )
        .unwrap_or_else(|error| panic!("{name}: {error}"));
        session
            .forward(&tokens, samples, Some(&mask), true)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let width = model.config.vocab_size;
        let got = session.logits(samples).unwrap();
        let (mut wrong, mut total, mut rows) = (0.0, 0.0, 0);
        for (row, _) in mask.iter().enumerate().filter(|(_, real)| **real != 0) {
            for (got, expected) in got[row * width..][..width].iter().zip(&expected[row * width..]) {
                wrong += f64::from(got - expected).powi(2);
                total += f64::from(*expected).powi(2);
            }
            rows += 1;
        }
        assert!(rows > 0 && total > 0.0, "{name}: nothing to compare");
        // Float32 in another order: a few 1e-6 relative, squared.
        assert!(wrong / total < 1e-10, "{name}: NMSE {:e}", wrong / total);
    }
}
