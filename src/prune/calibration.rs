//! The result of calibration (docs/method.md, sections 6 and 7).

use std::borrow::Cow;

use super::{
    adapt::Corrections, allocation::Losses, linear_fit::LinearFit, second_moments::SecondMoments,
    settings::Method,
};
use crate::error::{Error, Result};

/// Moments of one block's intermediate states over the calibration samples.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockMoments {
    /// h (S, C): mean over samples of a².
    pub energy: Vec<f32>,
    /// μ (S, C): mean over samples of a.
    pub mean: Vec<f32>,
    /// Moments for FLAP.
    pub flap: Option<FlapMoments>,
    /// The linear map for compensation.
    pub linear: Option<LinearFit>,
    /// E\[a·aᵀ\] for folds.
    pub second: Option<SecondMoments>,
}

impl BlockMoments {
    /// μ̄ (C): mean of μ over the slots.
    pub fn channel_means(&self, width: usize) -> Vec<f32> {
        slot_mean(&self.mean, width).into_iter().map(|mean| mean as f32).collect()
    }

    /// h (S, C) around a share of the channels' means: E\[(a − γ·μ̄)²\] = h − 2·γ·μ̄·μ + γ²·μ̄² (docs/method.md, section 10).
    pub fn centred_energy(&self, width: usize, share: f32) -> Vec<f32> {
        let means = self.channel_means(width).into_iter().map(|mean| share * mean).collect::<Vec<_>>();
        let slots = self.energy.chunks_exact(width).zip(self.mean.chunks_exact(width));
        let centred = |((&h, &mu), &mean): ((&f32, &f32), &f32)| (h + mean * (mean - 2.0 * mu)).max(0.0);
        slots.flat_map(|(h, mu)| h.iter().zip(mu).zip(&means).map(centred)).collect()
    }

    /// As they are for channels in another order.
    fn reordered(&self, order: &[u32]) -> Self {
        let rows = |values: &[f32]| -> Vec<f32> {
            let rows = values.chunks_exact(order.len());
            rows.flat_map(|row| order.iter().map(|&channel| row[channel as usize])).collect()
        };
        Self {
            energy: rows(&self.energy),
            mean: rows(&self.mean),
            flap: self.flap.as_ref().map(|flap| FlapMoments {
                fluctuation: rows(&flap.fluctuation),
                baseline: rows(&flap.baseline),
            }),
            linear: self.linear.as_ref().map(|fit| LinearFit {
                coefficients: rows(&fit.coefficients),
                bias: rows(&fit.bias),
                variance: rows(&fit.variance),
                ..fit.clone()
            }),
            second: self.second.as_ref().map(|second| second.reordered(order)),
        }
    }
}

/// Mean over the slots of (S, width).
pub(crate) fn slot_mean(values: &[f32], width: usize) -> Vec<f64> {
    let mut mean = vec![0.0; width];
    for slot in values.chunks_exact(width) {
        mean.iter_mut().zip(slot).for_each(|(mean, &x)| *mean += f64::from(x));
    }
    let slots = (values.len() / width) as f64;
    mean.iter_mut().for_each(|mean| *mean /= slots);
    mean
}

/// FLAP's moments, reduced over the S slots.
#[derive(Clone, Debug, PartialEq)]
pub struct FlapMoments {
    /// Σ_s φ (C).
    pub fluctuation: Vec<f32>,
    /// mean_s β (C).
    pub baseline: Vec<f32>,
}

/// The result of a calibration run.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Fingerprint of the model it belongs to.
    pub fingerprint: String,
    /// S of the calibration samples.
    pub seq_len: usize,
    /// Samples seen.
    pub samples: usize,
    /// Per layer: attention, MLP.
    pub layers: Vec<[BlockMoments; 2]>,
    /// Per layer, the MLP's channels by falling static score e\[c\]·sqrt(Σ_o W\[o,c\]⁴), where e is the variance that a
    /// linear map does not explain, or else the energy around a share of the mean. A model loaded in this order has
    /// neighbours that belong together as groups.
    pub channel_order: Vec<Vec<u32>>,
    /// What a session learned about a fold of this model; a session with the same fold begins with it.
    pub corrections: Option<Corrections>,
    /// What pruning single blocks loses under some methods, for measured allocations.
    pub losses: Vec<Losses>,
}

impl Calibration {
    /// What pruning single blocks loses under this method, if that was measured.
    pub fn losses_of(&self, method: Method) -> Option<&Losses> {
        self.losses.iter().find(|losses| losses.method == method)
    }

    /// The moments of a model whose MLP channels were loaded in the order `order`.
    pub fn reordered(&self, order: &[Vec<u32>]) -> Self {
        let pairs = self.layers.iter().zip(order);
        let layers =
            pairs.map(|([attention, mlp], order)| [attention.clone(), mlp.reordered(order)]).collect();
        Self { layers, ..self.clone() }
    }

    /// The moments for a model that was loaded in this order, if it has one of its own.
    pub fn in_order_of(&self, order: Option<&[Vec<u32>]>) -> Cow<'_, Self> {
        order.map_or(Cow::Borrowed(self), |order| Cow::Owned(self.reordered(order)))
    }

    /// Whether it is of the model with this fingerprint.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is another model's.
    pub fn check_model(&self, fingerprint: &str) -> Result<()> {
        if self.fingerprint == fingerprint {
            return Ok(());
        }
        Err(Error::argument(
            "calibration",
            format!("one of the model with fingerprint {fingerprint}"),
            format!("one of {}", self.fingerprint),
            "Calibrate this model.",
        ))
    }

    /// Rank of the linear maps; `None` if it holds none.
    pub fn linear_rank(&self) -> Option<usize> {
        self.layers.first().and_then(|[attention, _]| attention.linear.as_ref()).map(LinearFit::rank)
    }
}
