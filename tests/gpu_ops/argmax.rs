//! `argmax`: the most likely token of each row.

use probeprune::{
    Result,
    backend::Backend,
    gpu::{Driver, Gpu, GpuDtype},
};

use crate::case::{Case, Expected, Output, Put, check, check_traffic, floats, rng};

#[derive(Debug)]
struct ArgmaxCase {
    x: Vec<f32>,
    rows: usize,
}

impl Case for ArgmaxCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let mut out = gpu.indices(self.rows)?;
        gpu.argmax(&gpu.put_statistics(&self.x), self.rows, self.x.len() / self.rows, &mut out);
        Ok(vec![Output::Indices(gpu.download_indices(&out, self.rows)?)])
    }

    fn expected(&self) -> Vec<Expected> {
        let best = |row: &[f32]| {
            let mut best = 0;
            for (i, &x) in row.iter().enumerate() {
                best = if x > row[best] { i } else { best };
            }
            if row.iter().all(|x| x.is_finite()) { best as u32 } else { u32::MAX }
        };
        vec![Expected::Indices(self.x.chunks_exact(self.x.len() / self.rows).map(best).collect())]
    }

    fn dtype(&self) -> GpuDtype {
        GpuDtype::Bf16
    }
}

#[test]
fn argmax() {
    for (rows, width) in [(1, 1), (3, 31), (2, 1000), (2, 2049)] {
        let x = floats(&mut rng(1), -3.0..3.0, rows * width);
        check(&ArgmaxCase { x: x.clone(), rows });
        // Few values: the first of many equal ones.
        check(&ArgmaxCase { x: x.iter().map(|x| x.round() * 0.0 + x.signum().min(0.0)).collect(), rows });
        check(&ArgmaxCase { x: vec![-f32::MAX; rows * width], rows });
    }
}

#[test]
fn argmax_reports_rows_that_are_not_finite() {
    for (at, value) in [(0, f32::NAN), (1500, f32::INFINITY), (2999, f32::NEG_INFINITY)] {
        let mut x = floats(&mut rng(2), -3.0..3.0, 3000);
        x[at] = value;
        check(&ArgmaxCase { x, rows: 3 });
    }
}

#[test]
fn argmax_moves_what_its_header_says() {
    let (rows, width) = (8, 32_000);
    let case = ArgmaxCase { x: floats(&mut rng(3), -3.0..3.0, rows * width), rows };
    // Each block writes 4 bytes, of a sector of 32.
    check_traffic(&case, "argmax", 4 * rows * width, 32 * rows);
}
