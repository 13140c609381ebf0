//! `check_finite`: a fault is reported once.

use probeprune::{
    Result,
    backend::{Backend, CheckFiniteOperands},
};

use super::{Case, ElementBytes, Expected, Put, Ready, Traffic, near::Stored, outputs, source::Source};

#[derive(Clone, Debug)]
pub struct FiniteCase {
    pub len: usize,
    /// A value and its place.
    pub bad: Option<(usize, f32)>,
    /// Already in the fault when the operation starts.
    pub fault: u32,
}

const TAG: u32 = 77;

impl Case for FiniteCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        // One more value than is checked.
        let mut values = source.stream(1).floats(-1e30..1e30, self.len + 1);
        values[self.len] = f32::NAN;
        if let Some((at, bad)) = self.bad {
            values[at] = bad;
        }
        let (len, values) = (self.len, backend.put_statistics(self.len + 1, &values)?);
        let mut fault = backend.put_indices(&[self.fault])?;
        Ok(Box::new(move |backend, read| {
            backend.check_finite(CheckFiniteOperands { values: &values, len, tag: TAG, fault: &mut fault });
            outputs(read, || Ok(vec![backend.read_indices(&fault, 1)?]))
        }))
    }

    fn expected(&self, _source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let found = if self.bad.is_some() && self.fault == 0 { TAG } else { self.fault };
        vec![Expected::Indices(vec![found])]
    }

    fn bytes(&self, _element: ElementBytes) -> usize {
        4 * self.len
    }

    fn traffic(&self) -> Traffic {
        Traffic::new("check_finite", 4 * self.len, 0)
    }
}
