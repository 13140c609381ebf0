//! The order of channels that `--channel-group` takes groups of.

use std::sync::Arc;

use probeprune::{
    checkpoint::Checkpoint,
    cpu::Cpu,
    model::Model,
    prune::settings::Compensation,
    session::{CalibrationOptions, calibrate},
    source::ModelSource,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[test]
fn channels_are_ordered_by_what_compensated_runs_score_by() {
    let source = ModelSource::locate("bundled:tiny-llama").unwrap();
    let model = Arc::new(Model::load(&source, true, Arc::new(Cpu::new(2).unwrap()), |_| ()).unwrap());
    let (hidden, width) = (model.config.hidden_size, model.config.intermediate_size);
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let tokens: Vec<u32> =
        (0..12 * 16).map(|_| rng.random_range(0..model.config.vocab_size as u32)).collect();
    for linear_rank in [0, 3] {
        let options =
            CalibrationOptions { seq_len: 16, batch_size: 4, flap: false, linear_rank, ..Default::default() };
        let calibration = calibrate(&model, &tokens, options, |_| ()).unwrap();
        let checkpoint = Checkpoint::open(&source, true).unwrap();
        for (layer, ([_, moments], order)) in
            calibration.layers.iter().zip(&calibration.channel_order).enumerate()
        {
            let weight = checkpoint.require(&format!("model.layers.{layer}.mlp.down_proj.weight")).unwrap();
            let weight = weight.to_f32();
            let score = |c: usize| {
                let mean = (0..16).map(|s| f64::from(moments.mean[s * width + c])).sum::<f64>() / 16.0;
                let square = (0..16).map(|s| f64::from(moments.energy[s * width + c])).sum::<f64>() / 16.0;
                let share = f64::from(Compensation::CENTRED_SHARE);
                let energy = match &moments.linear {
                    Some(fit) => f64::from(fit.variance[c]),
                    None => square - share * (2.0 - share) * mean * mean,
                };
                let column = (0..hidden).map(|o| f64::from(weight[o * width + c]).powi(4)).sum::<f64>();
                energy * column.sqrt()
            };
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..width as u32).collect::<Vec<_>>());
            let scores: Vec<f64> = order.iter().map(|&c| score(c as usize)).collect();
            let falls = |pair: &[f64]| pair[1] <= pair[0] * (1.0 + 1e-4) + 1e-9 * scores[0];
            assert!(scores.windows(2).all(falls), "layer {layer}, rank {linear_rank}: {scores:?}");
        }
    }
}
