//! Folds and their corrections from end to end, against plain computations in f64 from the states of a plain decoder: a
//! fold stands for a pruned channel with its regression on the kept ones.

#[path = "../common/mod.rs"]
mod common;
mod corrections;
mod prompts;
mod reference;
mod rounding;

use std::{collections::HashMap, sync::Arc};

use common::{
    assert_error,
    models::Folder,
    plain::{Plain, assert_close},
    small::{bits, folders, load, random_tokens},
};
use probeprune::{
    cpu::Cpu,
    model::{Model, fold::Fold},
    prune::{
        Block,
        calibration::Calibration,
        settings::{
            Adapt, AdaptMetric, AdaptSettings, DenseBelow, FoldChoice, Method, ProbeTokens, Settings,
        },
    },
    session::{CalibrationOptions, Limits, Session, calibrate},
};
use reference::{Reference, channels_of, chosen, moments};

const SAMPLES: usize = 9;
const SEQ_LEN: usize = 12;
const LIMITS: Limits = Limits { samples: 3, tokens: SEQ_LEN, capacity: 0 };

fn calibrated(model: &Arc<Model<Cpu>>) -> Calibration {
    let options = CalibrationOptions { seq_len: SEQ_LEN, batch_size: 4, fold: true, ..Default::default() };
    calibrate(model, &random_tokens(1, SAMPLES * SEQ_LEN), options, |_| ()).unwrap()
}

/// All layers but the first; 3 of 4 heads, 16 of 24 channels.
fn folding() -> Settings {
    Settings {
        method: Method::Fold,
        prune_ratio: 0.23,
        skip_layers: vec![0],
        round_channels: 1,
        ..Settings::default()
    }
}

fn adapting(metric: AdaptMetric) -> Settings {
    let mode = Adapt::Probe { tokens: None };
    let adapt = AdaptSettings {
        mode,
        metric,
        forgetting: 0.9,
        prior_tokens: 20,
        every: 1,
        ..AdaptSettings::default()
    };
    // All tokens of all samples, so that the reference needs no choice.
    Settings { adapt, probe_tokens: ProbeTokens::Share(1.0), probe_samples: 1.0, ..folding() }
}

#[test]
fn a_fold_keeps_and_estimates_what_least_squares_says() {
    for (folder, choice) in
        folders().iter().flat_map(|f| FoldChoice::ALL.iter().map(move |&choice| (f, choice)))
    {
        let (plain, model) = (Plain::new(folder), load(folder));
        let (config, moments) = (&plain.config, moments(&plain));
        let settings = Settings { fold_choice: choice, ..folding() };
        let mut session =
            Session::new(Arc::clone(&model), settings, LIMITS, Some(&calibrated(&model))).unwrap();
        let mut references = HashMap::new();
        for (layer, block) in (1..3).flat_map(|layer| Block::ALL.map(|block| (layer, block))) {
            let (unit, keep, kept) = match block {
                Block::Attention => (config.head_dim, 3, session.kept_heads(layer).unwrap().unwrap()),
                Block::Mlp => (1, 16, session.kept_channels(layer).unwrap().unwrap()),
            };
            let moments = &moments[&(layer, block)];
            assert_eq!(
                kept,
                chosen(moments, plain.last(layer, block), unit, keep, choice),
                "{layer} {block:?}"
            );
            references.insert((layer, block), Reference::new(moments, channels_of(&kept, unit)));
        }
        let tokens = random_tokens(2, 2 * SEQ_LEN);
        session.forward(&tokens, 2, None, true).unwrap();
        let frequencies = plain.frequencies(10_000.0);
        let want = plain.logits(&tokens, SEQ_LEN, &|_| frequencies.clone(), &mut |layer, block, _, a| {
            if let Some(reference) = references.get(&(layer, block)) {
                reference.fill(a);
            }
        });
        assert_close("logits", &session.logits(2).unwrap(), &want, 1e-4);
        assert_eq!(session.scores(1, Block::Mlp).unwrap(), None);
    }
}

#[test]
fn a_ratio_of_0_is_the_dense_model_to_the_bit() {
    for folder in folders() {
        let model = load(&folder);
        let tokens = random_tokens(3, SEQ_LEN);
        let logits = |settings: Settings, calibration: Option<&Calibration>| {
            let mut session = Session::new(Arc::clone(&model), settings, LIMITS, calibration).unwrap();
            session.forward(&tokens, 1, None, true).unwrap();
            bits(&session.logits(1).unwrap())
        };
        let dense = logits(Settings { skip_layers: vec![0], ..Settings::default() }, None);
        let zero = Settings { prune_ratio: 0.0, ..adapting(AdaptMetric::Full) };
        assert_eq!(logits(zero, Some(&calibrated(&model))), dense);
    }
}

#[test]
fn second_moments_are_the_same_in_any_number_of_passes() {
    let [folder, _] = folders();
    let model = load(&folder);
    let run = |fold_memory: usize, linear_rank: usize| {
        let options = CalibrationOptions {
            seq_len: SEQ_LEN,
            batch_size: 4,
            linear_rank,
            fold: true,
            fold_memory,
            ..Default::default()
        };
        let mut done = Vec::new();
        let tokens = random_tokens(1, SAMPLES * SEQ_LEN);
        let calibration = calibrate(&model, &tokens, options, |samples| done.push(samples)).unwrap();
        (calibration, done, options.passes(&model.config))
    };
    // 16² and 24² floats per layer.
    let of_layer = 4 * (16 * 16 + 24 * 24);
    let (whole, done, passes) = run(0, 0);
    assert_eq!((done, passes), (vec![4, 8, 9], 1));
    for (memory, layers_at_a_time) in [(1, 1), (of_layer - 1, 1), (2 * of_layer - 1, 1), (2 * of_layer, 2)] {
        let (calibration, done, passes) = run(memory, 0);
        assert_eq!(passes, 3usize.div_ceil(layers_at_a_time), "{memory}");
        assert_eq!(done.last(), Some(&(passes * SAMPLES)));
        assert_eq!(calibration, whole, "{memory}");
    }
    let (calibration, done, passes) = run(1, 2);
    assert_eq!((done.last(), passes), (Some(&(4 * SAMPLES)), 4));
    assert_eq!(calibration.layers[2][1].second, whole.layers[2][1].second);
}

#[test]
fn a_history_file_holds_what_folds_need() {
    let [folder, _] = folders();
    let model = load(&folder);
    let calibration = calibrated(&model);
    let path = folder.file("history.safetensors");
    calibration.save(&path).unwrap();
    let loaded = Calibration::load(&path, &model.fingerprint, &model.config).unwrap();
    assert_eq!(loaded, calibration);
    let fold = |calibration: &Calibration| Fold::new(&model, &folding(), calibration, |_| ()).unwrap();
    assert_eq!(fold(&loaded).model.fingerprint, fold(&calibration).model.fingerprint);
    let other = Settings { fold_choice: FoldChoice::Score, ..folding() };
    let other = Fold::new(&model, &other, &calibration, |_| ()).unwrap();
    assert_ne!(other.model.fingerprint, fold(&calibration).model.fingerprint);
}

/// As groups of channels need it; kept channels are reported as the checkpoint numbers them.
#[test]
fn a_model_with_sorted_channels_folds_the_same() {
    for folder in folders() {
        let model = load(&folder);
        let calibration = calibrated(&model);
        let order = Some(calibration.channel_order.clone());
        let backend = Arc::new(Cpu::new(2).unwrap());
        let sorted = Arc::new(Model::load_ordered(&folder.source(), true, backend, order, |_| ()).unwrap());
        let run = |model: &Arc<Model<Cpu>>| {
            let mut session = Session::new(Arc::clone(model), folding(), LIMITS, Some(&calibration)).unwrap();
            session.forward(&random_tokens(2, SEQ_LEN), 1, None, true).unwrap();
            (session.kept_channels(2).unwrap(), session.logits(1).unwrap())
        };
        let ((kept, logits), (of_sorted, sorted)) = (run(&model), run(&sorted));
        assert_eq!(kept, of_sorted);
        let want: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
        assert_close("logits", &sorted, &want, 1e-5);
    }
}

#[test]
fn what_cannot_be_folded_is_refused() {
    let [folder, _] = folders();
    let model = load(&folder);
    let calibration = calibrated(&model);
    let new = |settings: Settings, calibration: Option<&Calibration>| {
        Session::new(Arc::clone(&model), settings, LIMITS, calibration).map(|_| ())
    };
    assert_error(new(folding(), None), &["method fold", "calibration"]);
    let mut without = calibration.clone();
    without.layers[1][0].second = None;
    assert_error(new(folding(), Some(&without)), &["method fold", "second moments"]);
    let other = Calibration { fingerprint: "other".to_string(), ..calibration.clone() };
    assert_error(new(folding(), Some(&other)), &["fingerprint"]);
    for dense_below in [DenseBelow::Tokens(5), DenseBelow::Auto] {
        assert_error(
            new(Settings { dense_below, ..folding() }, Some(&calibration)),
            &["dense_below", "fold"],
        );
    }
    let pp = Settings { method: Method::ProbePruning, ..adapting(AdaptMetric::Full) };
    assert_error(new(pp, None), &["adapt probe", "fold"]);
    assert_error(new(Settings { channel_group: 8, ..folding() }, Some(&calibration)), &["channel_group 8"]);

    let fold = Arc::new(Fold::new(&model, &folding(), &calibration, |_| ()).unwrap());
    let mut session = Session::of_fold(Arc::clone(&fold), folding(), LIMITS, None).unwrap();
    assert_error(session.pin(&[[None, None], [None, None], [None, None]]), &["folded"]);
    // A folded model is a dense one that has fewer channels: nothing more can be pruned from it.
    Session::new(Arc::clone(&fold.model), Settings::default_for(3), LIMITS, None).unwrap();
    let again = Settings { method: Method::ProbePruning, ..folding() };
    assert_error(
        Session::new(Arc::clone(&fold.model), again, LIMITS, None).map(|_| ()),
        &["method pp", "pruned"],
    );
    let own = Calibration { fingerprint: fold.model.fingerprint.clone(), ..calibration.clone() };
    assert_error(Fold::new(&fold.model, &folding(), &own, |_| ()).map(|_| ()), &["model to fold"]);

    let broken = Folder::llama_with(serde_json::json!({ "num_hidden_layers": 3 }));
    broken.edit_tensors(|tensors| {
        tensors.get_mut("model.layers.2.mlp.down_proj.weight").unwrap().1[7] = f32::NAN
    });
    let broken = load(&broken);
    let of_broken = Calibration { fingerprint: broken.fingerprint.clone(), ..calibration.clone() };
    assert_error(
        Fold::new(&broken, &folding(), &of_broken, |_| ()).map(|_| ()),
        &["layer 2", "mlp", "folded"],
    );
    let mut stopped = 0;
    let stop = |layers: usize| {
        stopped = layers;
        Err(probeprune::Error::Cancelled)
    };
    assert!(matches!(Fold::new(&model, &folding(), &calibration, stop), Err(probeprune::Error::Cancelled)));
    assert_eq!(stopped, 2);
}
