//! Second moments E\[a·aᵀ\] of a block's intermediate states, which the fold is fitted from (docs/method.md, section 12).
//!
//! They are large: C·(C + 1)/2 floats, 243 MB for an MLP of LLaMA-2-7B. So they lie in a file that is mapped into memory,
//! either the history file or a temporary one, and are read block by block.

use std::{
    io::{self, Write},
    sync::Arc,
};

use crate::{
    checkpoint::Tensor,
    error::{Error, Result},
};

/// E\[a·aᵀ\] (C, C): its lower triangle, row by row, in f32.
#[derive(Clone, Debug)]
pub struct SecondMoments {
    /// In the checkpoint's order of channels.
    triangle: Tensor,
    /// Which channel of the checkpoint stands at each place; `None` for its own order.
    order: Option<Arc<[u32]>>,
}

impl SecondMoments {
    /// Entries of the triangle of a (width, width) matrix.
    pub fn entries(width: usize) -> usize {
        width * (width + 1) / 2
    }

    /// From the sums Σ a·aᵀ (width, width) over `rows` tokens; kept in a temporary file.
    ///
    /// # Errors
    /// If the folder for temporary files has no room.
    pub fn from_sums(sums: &[f32], width: usize, rows: usize) -> Result<Self> {
        let failed = |source: io::Error| {
            let help = "Second moments are kept in a temporary file: free some space, or set TMPDIR.";
            Error::io(std::env::temp_dir(), "write", source, help)
        };
        let mut file = tempfile::tempfile().map_err(failed)?;
        let scale = 1.0 / rows as f32;
        let mut line = Vec::with_capacity(width);
        for (i, row) in sums.chunks_exact(width).enumerate() {
            line.clear();
            line.extend(row[..=i].iter().map(|x| x * scale));
            file.write_all(bytemuck::cast_slice(&line)).map_err(failed)?;
        }
        let triangle = Tensor::mapped(&file, vec![Self::entries(width)]).map_err(failed)?;
        Ok(Self { triangle, order: None })
    }

    /// A triangle from a file.
    pub(super) fn of(triangle: Tensor) -> Self {
        Self { triangle, order: None }
    }

    /// The triangle (C·(C + 1)/2).
    pub fn triangle(&self) -> &Tensor {
        &self.triangle
    }

    /// The covariance G = E\[a·aᵀ\] − μ·μᵀ (C, C) in f64, both triangles, for the means μ (C).
    pub fn covariance(&self, means: &[f32]) -> Vec<f64> {
        let width = means.len();
        let values: &[f32] = bytemuck::cast_slice(self.triangle.bytes());
        // Where each channel of the checkpoint goes.
        let mut places: Vec<usize> = (0..width).collect();
        for (place, &channel) in self.order.iter().flat_map(|order| order.iter().enumerate()) {
            places[channel as usize] = place;
        }
        let mut covariance = vec![0.0; width * width];
        let mut from = 0;
        for (row, &i) in places.iter().enumerate() {
            for (&x, &j) in values[from..=from + row].iter().zip(&places) {
                let value = f64::from(x) - f64::from(means[i]) * f64::from(means[j]);
                covariance[i * width + j] = value;
                covariance[j * width + i] = value;
            }
            from += row + 1;
        }
        covariance
    }

    /// As it is for channels in another order.
    pub(super) fn reordered(&self, order: &[u32]) -> Self {
        Self { triangle: self.triangle.clone(), order: Some(order.into()) }
    }
}

impl PartialEq for SecondMoments {
    fn eq(&self, other: &Self) -> bool {
        self.triangle.bytes() == other.triangle.bytes() && self.order == other.order
    }
}
