//! `probe_gather`: the probe's rows.

use probeprune::{
    Result,
    backend::{Backend, Probe, ProbeGatherOperands},
    prune::BatchShape,
};

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored},
    outputs,
    source::Source,
};

#[derive(Clone, Debug)]
pub struct ProbeGatherCase {
    pub shape: BatchShape,
    pub probe: BatchShape,
    pub hidden_size: usize,
}

impl ProbeGatherCase {
    /// x, samples, slots.
    fn input(&self, source: Source<'_>) -> (Vec<f32>, Vec<u32>, Vec<u32>) {
        let mut stream = source.stream(1);
        let x = stream.elements(self.shape.rows() * self.hidden_size);
        let samples = stream.kept(self.shape.samples, self.probe.samples);
        (x, samples, stream.kept(self.shape.tokens, self.probe.tokens))
    }
}

impl Case for ProbeGatherCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let (x, samples, slots) = self.input(source);
        let Self { shape, hidden_size, .. } = *self;
        let probe: Probe<B> = Probe {
            shape: self.probe,
            samples: backend.put_indices(&samples)?,
            slots: backend.put_indices(&slots)?,
            positions: backend.indices(self.probe.rows())?,
            mask: backend.indices(self.probe.rows())?,
        };
        let len = self.probe.rows() * hidden_size;
        let x = backend.put_activations(shape.rows() * hidden_size, &x)?;
        let mut out = backend.activations(len)?;
        Ok(Box::new(move |backend, read| {
            backend.probe_gather(ProbeGatherOperands {
                x: &x,
                shape,
                hidden_size,
                probe: &probe,
                out: &mut out,
            });
            outputs(read, || Ok(vec![backend.read_activations(&out, len)?]))
        }))
    }

    fn expected(&self, source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let (x, samples, slots) = self.input(source);
        let mut values = Vec::new();
        for &sample in &samples {
            for &slot in &slots {
                let row = sample as usize * self.shape.tokens + slot as usize;
                values.extend(x[row * self.hidden_size..][..self.hidden_size].iter().map(|&x| Near::from(x)));
            }
        }
        // Copies.
        vec![Expected::Floats(values)]
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        element.activation * 2 * self.probe.rows() * self.hidden_size
    }

    fn traffic(&self) -> Traffic {
        let (rows, h) = (self.probe.rows(), self.hidden_size);
        Traffic::new("probe_gather", 2 * rows * h + 512 * rows, 2 * rows * h)
    }
}
