//! `probe_select`: every order, padding, ties, few and many tokens and samples; the CPU backend's choice exactly.

use probeprune::{
    Result,
    backend::{Backend, Grid, Probe},
    cpu::Cpu,
    gpu::{Driver, Gpu, GpuDtype},
    prune::{
        counts::{LEADING_SLOT_LIMIT, probe_counts},
        settings::{ProbeOrder, Settings},
    },
};
use rand::RngExt;

use crate::{
    case::{Case, Expected, Output, Put, check, check_once, check_traffic, rng},
    device::backend,
};

/// What Σr² looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Squares of small integers: sums are exact and ties are many.
    Exact,
    /// Any floats: the last bit depends on the order of the sum.
    Rough,
}

/// Which cells are pads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Padding {
    None,
    /// At the left, fewer in every sample; slot 0 is a pad in all of them.
    Left,
    /// Anywhere; sample 0 is nothing but pads.
    Anywhere,
}

#[derive(Clone, Debug)]
struct SelectCase {
    grid: Grid,
    kept: Grid,
    order: ProbeOrder,
    padding: Padding,
    kind: Kind,
}

const UNTOUCHED: u32 = 123_456;

impl SelectCase {
    /// Shares of tokens and samples as settings have them.
    fn new(samples: usize, tokens: usize, order: ProbeOrder, padding: Padding, kind: Kind) -> Self {
        Self::with_shares(samples, tokens, (0.4, 0.3), order, padding, kind)
    }

    fn with_shares(
        samples: usize,
        tokens: usize,
        (probe_tokens, probe_samples): (f64, f64),
        order: ProbeOrder,
        padding: Padding,
        kind: Kind,
    ) -> Self {
        let settings = Settings { probe_tokens, probe_samples, probe_order: order, ..Settings::default() };
        let (b, s) = probe_counts(&settings, samples, tokens);
        let (grid, kept) = (Grid { samples, tokens }, Grid { samples: b, tokens: s });
        Self { grid, kept, order, padding, kind }
    }

    /// Σr², positions, mask.
    fn input(&self) -> (Vec<f32>, Vec<u32>, Vec<u32>) {
        let Grid { samples, tokens } = self.grid;
        let mut rng = rng((samples * tokens) as u64);
        let mut value = || match self.kind {
            Kind::Exact => (rng.random_range(0..6u32).pow(2)) as f32,
            Kind::Rough => 10f32.powf(rng.random_range(-1.0..2.0)),
        };
        let squares = (0..self.grid.rows()).map(|_| value()).collect();
        let mut real = |row: usize| match self.padding {
            Padding::None => true,
            Padding::Left => row % tokens > (samples - 1 - row / tokens) * 2 % tokens.max(2),
            Padding::Anywhere => row / tokens > 0 && rng.random_range(0..3) > 0,
        };
        let mask = (0..self.grid.rows()).map(|row| u32::from(real(row))).collect();
        (squares, (0..self.grid.rows() as u32).map(|row| 3 * row + 1).collect(), mask)
    }

    fn run_on<B: Backend>(&self, backend: &B) -> Result<Vec<Output>> {
        let (squares, positions, mask) = self.input();
        let rows = self.kept.rows();
        // One more entry than is to be written.
        let room = |len: usize| backend.put_indices(&vec![UNTOUCHED; len + 1]);
        let mut probe: Probe<B> = Probe {
            grid: self.kept,
            samples: room(self.kept.samples),
            slots: room(self.kept.tokens),
            positions: room(rows),
            mask: room(rows),
        };
        let mask = (self.padding != Padding::None).then(|| backend.put_indices(&mask));
        let (squares, positions) = (backend.put_statistics(&squares), backend.put_indices(&positions));
        backend.probe_select(
            &squares,
            self.grid,
            self.order,
            &positions,
            mask.as_ref(),
            LEADING_SLOT_LIMIT,
            &mut probe,
        );
        let Probe { samples, slots, positions, mask, .. } = &probe;
        [(samples, self.kept.samples), (slots, self.kept.tokens), (positions, rows), (mask, rows)]
            .into_iter()
            .map(|(indices, len)| Ok(Output::Indices(backend.download_indices(indices, len + 1)?)))
            .collect()
    }
}

/// The k largest, ascending; a stable sort leaves ties in order of index.
fn largest(values: &[Option<f64>], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap());
    order.truncate(k);
    order.sort_unstable();
    order
}

impl Case for SelectCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        self.run_on(gpu)
    }

    fn expected(&self) -> Vec<Expected> {
        let (squares, positions, mask) = self.input();
        let at = |b: usize, s: usize| b * self.grid.tokens + s;
        let mut samples: Vec<usize> = (0..self.grid.samples).collect();
        let mut tokens: Vec<usize> = (0..self.grid.tokens).collect();
        // `None`, for pads only, sorts below every sum.
        let sum = |cells: Vec<usize>| -> Option<f64> {
            let real: Vec<usize> = cells.into_iter().filter(|&i| mask[i] != 0).collect();
            (!real.is_empty()).then(|| real.iter().map(|&i| f64::from(squares[i])).sum())
        };
        for stage in self.order.name().split(',') {
            if stage == "tokens" {
                let t: Vec<_> =
                    tokens.iter().map(|&s| sum(samples.iter().map(|&b| at(b, s)).collect())).collect();
                tokens = largest(&t, self.kept.tokens);
                if tokens.len() <= LEADING_SLOT_LIMIT {
                    tokens[0] = tokens[0].min(t.iter().position(Option::is_some).unwrap_or(0));
                }
            } else {
                let m: Vec<_> =
                    samples.iter().map(|&b| sum(tokens.iter().map(|&s| at(b, s)).collect())).collect();
                samples = largest(&m, self.kept.samples);
            }
        }
        let rows: Vec<usize> = samples.iter().flat_map(|&b| tokens.iter().map(move |&s| at(b, s))).collect();
        let output = |values: Vec<u32>| Expected::Indices([values, vec![UNTOUCHED]].concat());
        let indices = |values: Vec<usize>| output(values.into_iter().map(|i| i as u32).collect());
        vec![
            indices(samples),
            indices(tokens),
            output(rows.iter().map(|&row| positions[row]).collect()),
            output(rows.iter().map(|&row| mask[row]).collect()),
        ]
    }

    fn dtype(&self) -> GpuDtype {
        GpuDtype::Bf16
    }
}

/// Sums of any floats may tie or not within f64's last bits: there the CPU backend decides, which has the same order.
fn agrees_with_the_cpu(case: &SelectCase) {
    let gpu = backend(GpuDtype::Bf16);
    assert_eq!(case.run(&gpu).unwrap(), case.run_on(&Cpu::new(1).unwrap()).unwrap(), "{case:?}");
}

const PADDINGS: [Padding; 3] = [Padding::None, Padding::Left, Padding::Anywhere];

#[test]
fn probe_select() {
    let shapes = [(1, 1), (1, 31), (2, 33), (5, 9), (20, 40), (33, 7), (3, 300), (300, 3)];
    for (i, (samples, tokens)) in shapes.into_iter().enumerate() {
        for (j, &order) in ProbeOrder::ALL.iter().enumerate() {
            let padding = PADDINGS[(i + j) % 3];
            let case = SelectCase::new(samples, tokens, order, padding, Kind::Exact);
            check(&case);
            agrees_with_the_cpu(&case);
        }
    }
}

#[test]
fn few_tokens_include_the_first() {
    for padding in PADDINGS {
        for order in [ProbeOrder::TokensSamples, ProbeOrder::SamplesTokens] {
            for tokens in [64, 400] {
                // 2 and 10 tokens, and 11, which are no longer few.
                for share in [1e-3, 10.0 / tokens as f64, 10.5 / tokens as f64] {
                    let case = SelectCase::with_shares(4, tokens, (share, 0.5), order, padding, Kind::Exact);
                    check_once(&case);
                    agrees_with_the_cpu(&case);
                }
            }
        }
    }
}

#[test]
fn sums_round_as_the_cpu_backends_do() {
    for (samples, tokens) in [(7, 200), (20, 128), (20, 333), (41, 70)] {
        for &order in ProbeOrder::ALL {
            for padding in PADDINGS {
                agrees_with_the_cpu(&SelectCase::new(samples, tokens, order, padding, Kind::Rough));
            }
        }
    }
    // Equal cells in another order: samples differ in the last bits of their sums alone, or not at all.
    let case =
        SelectCase::with_shares(64, 96, (1.0, 0.5), ProbeOrder::TokensSamples, Padding::None, Kind::Rough);
    let (squares, positions, _) = case.input();
    let mut shuffled = squares.clone();
    for (b, row) in shuffled.chunks_mut(96).enumerate() {
        row.copy_from_slice(&squares[..96]);
        row.rotate_left(b);
    }
    let gpu = backend(GpuDtype::Bf16);
    let on_gpu = samples_of(&gpu, &shuffled, &positions);
    assert_eq!(on_gpu, samples_of(&Cpu::new(1).unwrap(), &shuffled, &positions));
}

fn samples_of<B: Backend>(backend: &B, squares: &[f32], positions: &[u32]) -> Vec<u32> {
    let kept = Grid { samples: 32, tokens: 96 };
    let room = |len: usize| backend.indices(len).unwrap();
    let mut probe: Probe<B> = Probe {
        grid: kept,
        samples: room(32),
        slots: room(96),
        positions: room(kept.rows()),
        mask: room(kept.rows()),
    };
    let grid = Grid { samples: 64, tokens: 96 };
    let (squares, positions) = (backend.put_statistics(squares), backend.put_indices(positions));
    let order = ProbeOrder::TokensSamples;
    backend.probe_select(&squares, grid, order, &positions, None, LEADING_SLOT_LIMIT, &mut probe);
    backend.download_indices(&probe.samples, 32).unwrap()
}

#[test]
fn probe_select_at_real_sizes() {
    let (order, other) = (ProbeOrder::TokensSamples, ProbeOrder::SamplesTokens);
    // Above 8192 keys are computed anew in every pass.
    for (samples, tokens, order, padding) in [
        (20, 1024, order, Padding::None),
        (20, 1024, other, Padding::Left),
        (4, 2048, order, Padding::Left),
        (1, 8192, order, Padding::None),
        (2, 8200, order, Padding::Anywhere),
        (2, 8200, other, Padding::None),
        (8200, 2, other, Padding::Anywhere),
        (8200, 3, order, Padding::None),
    ] {
        let case = SelectCase::new(samples, tokens, order, padding, Kind::Exact);
        check_once(&case);
        agrees_with_the_cpu(&case);
    }
}

#[test]
fn probe_select_moves_what_its_header_says() {
    // Every token is kept, so that they are read as whole sectors, and only samples are to be chosen.
    let (b, s, order) = (16, 1024, ProbeOrder::TokensSamples);
    let case = |padding| SelectCase::with_shares(b, s, (1.0, 0.25), order, padding, Kind::Rough);
    let rows = case(Padding::None).kept.rows();
    // Norms and the list of slots for each sample; for each of the probe's rows its slot and position, and the sample,
    // which a warp's rows share.
    let (read, written) = (8 * b * s + 9 * rows, 4 * s + 8 * rows);
    check_traffic(&case(Padding::None), "probe_select", read, written);
}
