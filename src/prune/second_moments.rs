//! Second moments E\[a·aᵀ\] of a block's intermediate states, which the fold is fitted from (docs/method.md, section 12).
//!
//! They are large: C·(C + 1)/2 floats, 243 MB for an MLP of LLaMA-2-7B. So they lie in a file that is mapped into memory,
//! either the history file or a temporary one, and are read block by block.

use std::io::{self, Write};

use crate::{
    checkpoint::Tensor,
    error::{Error, Result},
};

/// E\[a·aᵀ\] (C, C): its lower triangle, row by row, in f32.
#[derive(Clone, Debug)]
pub struct SecondMoments {
    triangle: Tensor,
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
        Ok(Self { triangle })
    }

    /// A triangle from a file.
    pub(super) fn of(triangle: Tensor) -> Self {
        Self { triangle }
    }

    /// The triangle (C·(C + 1)/2).
    pub fn triangle(&self) -> &Tensor {
        &self.triangle
    }

    /// The covariance G = E\[a·aᵀ\] − μ·μᵀ (C, C) in f64, both triangles, for the means μ (C).
    pub fn covariance(&self, means: &[f32]) -> Vec<f64> {
        let width = means.len();
        let values: &[f32] = bytemuck::cast_slice(self.triangle.bytes());
        let mut covariance = vec![0.0; width * width];
        let mut from = 0;
        for i in 0..width {
            for (j, &x) in values[from..=from + i].iter().enumerate() {
                let value = f64::from(x) - f64::from(means[i]) * f64::from(means[j]);
                covariance[i * width + j] = value;
                covariance[j * width + i] = value;
            }
            from += i + 1;
        }
        covariance
    }
}

impl PartialEq for SecondMoments {
    fn eq(&self, other: &Self) -> bool {
        self.triangle.bytes() == other.triangle.bytes()
    }
}
