//! Calibration from end to end: every statistic, and what sessions make of it, against plain computations in f64 from
//! the states of a plain decoder.

mod common;

use std::{collections::HashMap, sync::Arc};

use common::{
    models::Folder,
    plain::{Plain, assert_close},
    small::{self, load, random_tokens},
};
use probeprune::{
    prune::{
        Block,
        calibration::{BlockMoments, Calibration},
        linear_fit::LinearFit,
        settings::{Compensation, Method, ProbeTokens, Settings},
    },
    session::{CalibrationOptions, Limits, Session, calibrate},
};

const SAMPLES: usize = 7;
const SEQ_LEN: usize = 12;
const H: usize = 16;
/// λ of the ridge regression.
const RIDGE: f64 = 1e-3;

/// Blocks' inputs vary in some directions much more than in others, so that the principal ones are certain.
fn folders() -> [Folder; 2] {
    let folders = small::folders();
    for folder in &folders {
        folder.edit_tensors(|tensors| {
            for (_, (_, values)) in tensors.iter_mut().filter(|(name, _)| name.contains("norm")) {
                values.iter_mut().enumerate().for_each(|(i, x)| *x *= 1.3 * 0.75f32.powi(i as i32));
            }
        });
    }
    folders
}

fn calibrated(folder: &Folder, batch_size: usize, linear_rank: usize) -> Calibration {
    let options =
        CalibrationOptions { seq_len: SEQ_LEN, batch_size, flap: true, linear_rank, ..Default::default() };
    calibrate(&load(folder), &random_tokens(1, SAMPLES * SEQ_LEN), options, |_| ()).unwrap()
}

/// x (T, H) and a (T, C) of every block of the calibration samples.
fn states(plain: &Plain) -> HashMap<(usize, Block), [Vec<f64>; 2]> {
    let mut states = HashMap::new();
    let frequencies = plain.frequencies(10_000.0);
    let tokens = random_tokens(1, SAMPLES * SEQ_LEN);
    plain.logits(&tokens, SEQ_LEN, &|_| frequencies.clone(), &mut |layer, block, x, a| {
        states.insert((layer, block), [x.to_vec(), a.to_vec()]);
    });
    states
}

/// Means over the rows of (rows, width).
fn means(values: &[f64], width: usize) -> Vec<f64> {
    let rows = (values.len() / width) as f64;
    (0..width).map(|c| values.iter().skip(c).step_by(width).sum::<f64>() / rows).collect()
}

/// Means over the samples of f(a) at every slot and channel.
fn at_slots(a: &[f64], f: impl Fn(f64) -> f64) -> Vec<f64> {
    means(&a.iter().map(|&a| f(a)).collect::<Vec<_>>(), a.len() / SAMPLES)
}

/// Covariance (m, n) of the columns of x (rows, m) and y (rows, n).
fn covariance(x: &[f64], m: usize, y: &[f64], n: usize) -> Vec<f64> {
    let (mean_x, mean_y, rows) = (means(x, m), means(y, n), x.len() / m);
    let entry = |i: usize, j: usize| {
        let products = (0..rows).map(|row| (x[row * m + i] - mean_x[i]) * (y[row * n + j] - mean_y[j]));
        products.sum::<f64>() / rows as f64
    };
    (0..m * n).map(|i| entry(i / n, i % n)).collect()
}

/// Eigenvalues, largest first, and their eigenvectors, of a symmetric matrix (n, n): Jacobi's rotations.
fn eigen(mut matrix: Vec<f64>, n: usize) -> Vec<(f64, Vec<f64>)> {
    let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(i == j)).collect()).collect();
    for _ in 0..30 {
        for (p, q) in (0..n).flat_map(|q| (0..q).map(move |p| (p, q))) {
            let angle = 0.5 * (2.0 * matrix[p * n + q]).atan2(matrix[q * n + q] - matrix[p * n + p]);
            let (sin, cos) = angle.sin_cos();
            let turn = |a: f64, b: f64| (cos * a - sin * b, sin * a + cos * b);
            for i in 0..n {
                (matrix[i * n + p], matrix[i * n + q]) = turn(matrix[i * n + p], matrix[i * n + q]);
            }
            for i in 0..n {
                (matrix[p * n + i], matrix[q * n + i]) = turn(matrix[p * n + i], matrix[q * n + i]);
                let (a, b) = turn(vectors[p][i], vectors[q][i]);
                (vectors[p][i], vectors[q][i]) = (a, b);
            }
        }
    }
    let mut pairs: Vec<_> = vectors.into_iter().enumerate().map(|(i, v)| (matrix[i * n + i], v)).collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    pairs
}

/// Calls `check` for every block of both models, at batch sizes with and without a smaller last batch.
fn for_each_block(linear_rank: usize, mut check: impl FnMut(&str, usize, &BlockMoments, &[Vec<f64>; 2])) {
    for (folder, model) in folders().into_iter().zip(["llama", "opt"]) {
        let states = states(&Plain::new(&folder));
        for batch_size in [1, 3, 5, 7] {
            let calibration = calibrated(&folder, batch_size, linear_rank);
            assert_eq!((calibration.samples, calibration.seq_len), (SAMPLES, SEQ_LEN));
            for (layer, moments) in calibration.layers.iter().enumerate() {
                for (block, moments) in Block::ALL.into_iter().zip(moments) {
                    let what = format!("{model}, layer {layer}, {}, batches of {batch_size}", block.name());
                    check(&what, batch_size, moments, &states[&(layer, block)]);
                }
            }
        }
    }
}

#[test]
fn energies_and_means_are_those_of_all_samples() {
    for_each_block(0, |what, _, moments, [_, a]| {
        assert_close(&format!("energy: {what}"), &moments.energy, &at_slots(a, |a| a * a), 1e-5);
        assert_close(&format!("mean: {what}"), &moments.mean, &at_slots(a, |a| a), 1e-5);
        assert_eq!(moments.linear, None);
    });
}

#[test]
fn flaps_moments_are_the_published_ones() {
    for_each_block(0, |what, batch_size, moments, [_, a]| {
        let width = a.len() / (SAMPLES * SEQ_LEN);
        let (mut baseline, mut fluctuation) = (vec![0.0; SEQ_LEN * width], vec![0.0; SEQ_LEN * width]);
        let mut n = 0.0;
        for batch in a.chunks(batch_size * SEQ_LEN * width) {
            let samples: Vec<&[f64]> = batch.chunks_exact(SEQ_LEN * width).collect();
            let b = samples.len() as f64;
            let old = means(&baseline, width);
            for (i, baseline) in baseline.iter_mut().enumerate() {
                let mean = samples.iter().map(|a| a[i]).sum::<f64>() / b;
                *baseline = *baseline * n / (n + b) + mean / (n + b);
            }
            let new = means(&baseline, width);
            for (i, fluctuation) in fluctuation.iter_mut().enumerate().filter(|_| n > 0.0) {
                let c = i % width;
                let sum: f64 = samples.iter().map(|a| (a[i] - new[c]) * (a[i] - old[c])).sum();
                *fluctuation = *fluctuation * (n - 1.0) / (n + b - 1.0) + sum / (n + b);
            }
            n += b;
        }
        let flap = moments.flap.as_ref().unwrap();
        assert_close(&format!("baseline: {what}"), &flap.baseline, &means(&baseline, width), 1e-5);
        let sums: Vec<f64> = means(&fluctuation, width).iter().map(|mean| mean * SEQ_LEN as f64).collect();
        if batch_size < SAMPLES {
            assert_close(&format!("fluctuation: {what}"), &flap.fluctuation, &sums, 1e-5);
        } else {
            assert!(flap.fluctuation.iter().all(|&x| x == 0.0), "one batch alone does not fluctuate");
        }
    });
}

/// z (T, r) = P·x + p0.
fn images(fit: &LinearFit, x: &[f64]) -> Vec<f64> {
    let image = |x: &[f64], row: &[f32], offset: f32| {
        f64::from(offset) + row.iter().zip(x).map(|(&p, x)| f64::from(p) * x).sum::<f64>()
    };
    let rows = || fit.directions.chunks_exact(H).zip(&fit.offsets);
    x.chunks_exact(H).flat_map(|x| rows().map(|(row, &offset)| image(x, row, offset))).collect()
}

#[test]
fn calibration_tells_its_rank_and_how_far_it_is() {
    let model = load(&folders()[0]);
    let tokens = random_tokens(1, 5 * SEQ_LEN);
    for (linear_rank, told) in [(0, vec![2, 4, 5]), (3, vec![2, 4, 5, 7, 9, 10])] {
        let options = CalibrationOptions {
            seq_len: SEQ_LEN,
            batch_size: 2,
            flap: false,
            linear_rank,
            ..Default::default()
        };
        let mut done = Vec::new();
        let calibration = calibrate(&model, &tokens, options, |samples| done.push(samples)).unwrap();
        assert_eq!((calibration.linear_rank(), done), ((linear_rank > 0).then_some(linear_rank), told));
    }
}

#[test]
fn linear_maps_are_whitened_and_regress_the_states() {
    // LayerNorm's output has one direction without variance, the last to be found.
    for rank in [1, 3, H - 1] {
        let (mut all, mut certain) = (0, 0);
        for_each_block(rank, |what, _, moments, [x, a]| {
            let what = format!("{what}, rank {rank}");
            let fit = moments.linear.as_ref().unwrap();
            assert_eq!(fit.rank(), rank);
            let width = fit.bias.len();
            let z = images(fit, x);
            assert!(means(&z, rank).iter().all(|mean| mean.abs() < 1e-4), "{what}: z has mean 0");
            for (i, got) in covariance(&z, rank, &z, rank).into_iter().enumerate() {
                let want = f64::from(i % (rank + 1) == 0);
                assert!((got - want).abs() < 1e-3, "{what}: z is white, {i}: {got}");
            }
            assert_close(&format!("b: {what}"), &fit.bias, &means(a, width), 1e-5);
            let with_z = covariance(&z, rank, a, width);
            let coefficients: Vec<f64> = with_z.iter().map(|x| x / (1.0 + RIDGE)).collect();
            assert_close(&format!("B: {what}"), &fit.coefficients, &coefficients, 1e-3);

            // What is left, by its definition.
            let left: Vec<f64> = (0..a.len())
                .map(|i| {
                    let (row, c) = (i / width, i % width);
                    let explained =
                        (0..rank).map(|r| f64::from(fit.coefficients[r * width + c]) * z[row * rank + r]);
                    (a[i] - f64::from(fit.bias[c]) - explained.sum::<f64>()).powi(2)
                })
                .collect();
            assert_close(&format!("variance: {what}"), &fit.variance, &means(&left, width), 1e-3);

            // What the principal directions of x explain, without P: the ridge takes (1 − (λ/(1+λ))²) of it off.
            let principal = eigen(covariance(x, H, x, H), H);
            all += 1;
            // Directions of nearly the same variance are as good as each other, for x but not for a.
            if principal[rank].0 > 0.9 * principal[rank - 1].0 {
                return;
            }
            certain += 1;
            let along = covariance(x, H, a, width);
            let share = 1.0 - (RIDGE / (1.0 + RIDGE)).powi(2);
            let best: Vec<f64> = (0..width)
                .map(|c| {
                    let own = a.iter().skip(c).step_by(width).map(|a| a * a).sum::<f64>()
                        / (SAMPLES * SEQ_LEN) as f64
                        - f64::from(fit.bias[c]).powi(2);
                    let explained = principal[..rank].iter().map(|(variance, direction)| {
                        let covariance: f64 =
                            direction.iter().zip(along[c..].iter().step_by(width)).map(|(u, x)| u * x).sum();
                        covariance * covariance / variance
                    });
                    own - share * explained.sum::<f64>()
                })
                .collect();
            assert_close(&format!("explained: {what}"), &fit.variance, &best, 1e-3);
        });
        assert!(2 * certain > all, "rank {rank}: {certain} of {all} compared");
    }
}

/// Σ_o W[o,c]⁴, its root.
fn statistic(plain: &Plain, layer: usize, block: Block, width: usize) -> Vec<f64> {
    let last = plain.last(layer, block);
    (0..width).map(|c| last.iter().skip(c).step_by(width).map(|w| w.powi(4)).sum::<f64>().sqrt()).collect()
}

#[test]
fn channels_are_ordered_by_what_stands_for_them_cannot_tell() {
    for folder in folders() {
        let plain = Plain::new(&folder);
        let states = states(&plain);
        for rank in [0, 3] {
            let calibration = calibrated(&folder, 3, rank);
            for (layer, order) in calibration.channel_order.iter().enumerate() {
                let [_, a] = &states[&(layer, Block::Mlp)];
                let width = order.len();
                let energies: Vec<f64> = match &calibration.layers[layer][1].linear {
                    Some(fit) => fit.variance.iter().map(|&x| f64::from(x)).collect(),
                    None => {
                        let mean = means(a, width);
                        let share = f64::from(Compensation::CENTRED_SHARE);
                        let centred: Vec<f64> = a
                            .iter()
                            .enumerate()
                            .map(|(i, a)| (a - share * mean[i % width]).powi(2))
                            .collect();
                        means(&centred, width)
                    }
                };
                let statistic = statistic(&plain, layer, Block::Mlp, width);
                let score = |c: u32| energies[c as usize] * statistic[c as usize];
                assert!(
                    order.is_sorted_by(|&a, &b| score(a) >= 0.9999 * score(b)),
                    "layer {layer}, rank {rank}"
                );
                let mut all = order.clone();
                all.sort_unstable();
                assert!(all.into_iter().eq(0..width as u32));
            }
        }
    }
}

/// Runs `pp` on two batches that are their own probes, and everything that it does again in f64.
fn check_session(folder: &Folder, compensate: Compensation) {
    let (plain, model, calibration) = (Plain::new(folder), load(folder), calibrated(folder, 3, 5));
    // Two slots more than calibration saw.
    let (samples, length) = (4, SEQ_LEN + 2);
    let settings = Settings {
        method: Method::ProbePruning,
        prune_ratio: 0.35,
        skip_layers: vec![0],
        round_channels: 1,
        probe_samples: 1.0,
        probe_tokens: ProbeTokens::Share(1.0),
        prior_tokens: 30,
        momentum: 0.5,
        compensate,
        ..Settings::default()
    };
    let limits = Limits { samples, tokens: length, capacity: 0 };
    let mut session = Session::new(Arc::clone(&model), settings, limits, Some(&calibration)).unwrap();
    let own = if compensate == Compensation::None { 0.0 } else { f64::from(Compensation::CENTRED_SHARE) };
    let weight = (samples * length) as f64 / (samples * length + 30) as f64;
    let (mut compared, mut folded) = (0, HashMap::new());
    let frequencies = plain.frequencies(10_000.0);
    for batch in 0..2 {
        let tokens = random_tokens(2 + batch, samples * length);
        session.forward(&tokens, samples, None, true).unwrap();
        let want = plain.logits(&tokens, length, &|_| frequencies.clone(), &mut |layer, block, x, a| {
            let kept = match block {
                Block::Attention => session.kept_heads(layer).unwrap(),
                Block::Mlp => session.kept_channels(layer).unwrap(),
            };
            let Some(kept) = kept else { return };
            let moments = &calibration.layers[layer][block as usize];
            let width = a.len() / (samples * length);
            let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
            // What a pruned channel is known to be from x, the rest's mean in calibration, and the rest's energies.
            let (mut known, mut prior) = (vec![0.0; a.len()], vec![0.0; width]);
            let history: Vec<f64> = match compensate {
                Compensation::None => {
                    let start = || [wide(&moments.energy), vec![0.0; (length - SEQ_LEN) * width]].concat();
                    folded.remove(&(layer, block)).unwrap_or_else(start)
                }
                Compensation::ProbeMean => {
                    prior = means(&wide(&moments.mean), width);
                    let entry = |(i, (h, mu)): (usize, (f64, f64))| {
                        let mean = own * prior[i % width];
                        h - 2.0 * mean * mu + mean * mean
                    };
                    wide(&moments.energy)
                        .into_iter()
                        .zip(wide(&moments.mean))
                        .enumerate()
                        .map(entry)
                        .collect()
                }
                Compensation::Linear { rank } => {
                    let fit = moments.linear.as_ref().unwrap();
                    let all = fit.rank();
                    prior = wide(&fit.bias);
                    let z = images(fit, x);
                    let coefficient = |r: usize, c: usize| f64::from(fit.coefficients[r * width + c]);
                    for (i, known) in known.iter_mut().enumerate() {
                        *known = (0..rank).map(|r| coefficient(r, i % width) * z[i / width * all + r]).sum();
                    }
                    // The directions left out explain nothing.
                    let variance = |c: usize| {
                        let back =
                            (rank..all).map(|r| coefficient(r, c).powi(2) * (1.0 + 2.0 * RIDGE)).sum::<f64>();
                        f64::from(fit.variance[c]) + back
                    };
                    (0..length * width).map(|i| variance(i % width)).collect()
                }
            };
            let rest: Vec<f64> = a.iter().zip(&known).map(|(a, known)| a - known).collect();
            let mean: Vec<f64> = means(&rest, width)
                .iter()
                .zip(&prior)
                .map(|(mean, prior)| prior + weight * (mean - prior))
                .collect();
            let statistic = statistic(&plain, layer, block, width);
            let scores: Vec<f64> = (0..width)
                .map(|c| {
                    let fused = (0..length).map(|s| {
                        let at = |b: usize| rest[(b * length + s) * width + c] - own * mean[c];
                        let p = (0..samples).map(|b| at(b).powi(2)).sum::<f64>() / samples as f64;
                        let h = history.get(s * width + c).copied().unwrap_or(0.0);
                        let w = p / (p + h + 1e-6);
                        w * p + (1.0 - w) * h
                    });
                    fused.sum::<f64>() * statistic[c]
                })
                .collect();
            let unit = if block == Block::Attention { model.config.head_dim } else { 1 };
            let norm = |unit: &[f64]| unit.iter().map(|x| x * x).sum::<f64>().sqrt();
            let scores: Vec<f64> = scores.chunks_exact(unit).map(norm).collect();
            let mut order: Vec<u32> = (0..scores.len() as u32).collect();
            order.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
            order.truncate(kept.len());
            order.sort_unstable();
            assert_eq!(kept, order, "{compensate}, layer {layer}, {}", block.name());
            let got = session.scores(layer, block).unwrap().unwrap();
            assert_close(&format!("scores: {compensate}, layer {layer}"), &got, &scores, 1e-4);
            // Kept channels are folded into history, half and half; only without compensation is it used again.
            let energy = |i: usize| {
                a.iter().skip(i).step_by(length * width).map(|a| a * a).sum::<f64>() / samples as f64
            };
            let fold = |(i, h): (usize, &f64)| match kept.contains(&((i % width / unit) as u32)) {
                true => 0.5 * h + 0.5 * energy(i),
                false => *h,
            };
            folded.insert((layer, block), history.iter().enumerate().map(fold).collect());
            for (i, a) in
                a.iter_mut().enumerate().filter(|(i, _)| !kept.contains(&((i % width / unit) as u32)))
            {
                *a = if compensate == Compensation::None { 0.0 } else { known[i] + mean[i % width] };
            }
            compared += 1;
        });
        assert_close(&format!("logits: {compensate}"), &session.logits(samples).unwrap(), &want, 1e-4);
    }
    assert_eq!(compared, 2 * 4, "two blocks of two layers are pruned");
}

/// `wanda-sp` with `probe-mean`: what it prunes counts as its mean in calibration.
#[test]
fn what_a_fixed_choice_prunes_counts_as_its_mean() {
    for folder in folders() {
        let (plain, model, calibration) = (Plain::new(&folder), load(&folder), calibrated(&folder, 3, 0));
        let settings = Settings {
            method: Method::WandaSp,
            prune_ratio: 0.35,
            skip_layers: vec![0],
            round_channels: 1,
            compensate: Compensation::ProbeMean,
            ..Settings::default()
        };
        let limits = Limits { samples: 2, tokens: SEQ_LEN, capacity: 0 };
        let mut session = Session::new(Arc::clone(&model), settings, limits, Some(&calibration)).unwrap();
        let tokens = random_tokens(2, 2 * SEQ_LEN);
        session.forward(&tokens, 2, None, true).unwrap();
        let frequencies = plain.frequencies(10_000.0);
        let want = plain.logits(&tokens, SEQ_LEN, &|_| frequencies.clone(), &mut |layer, block, _, a| {
            let (kept, unit) = match block {
                Block::Attention => (session.kept_heads(layer).unwrap(), model.config.head_dim),
                Block::Mlp => (session.kept_channels(layer).unwrap(), 1),
            };
            let Some(kept) = kept else { return };
            let width = a.len() / (2 * SEQ_LEN);
            let of_slots = &calibration.layers[layer][block as usize].mean;
            let mean = means(&of_slots.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), width);
            let pruned = |c: usize| !kept.contains(&((c / unit) as u32));
            a.iter_mut()
                .enumerate()
                .filter(|(i, _)| pruned(i % width))
                .for_each(|(i, a)| *a = mean[i % width]);
        });
        assert_close("logits", &session.logits(2).unwrap(), &want, 1e-4);
    }
}

#[test]
fn sessions_choose_and_compensate_by_what_calibration_found() {
    for folder in folders() {
        check_session(&folder, Compensation::None);
        check_session(&folder, Compensation::ProbeMean);
        check_session(&folder, Compensation::Linear { rank: 5 });
        check_session(&folder, Compensation::Linear { rank: 2 });
    }
}
