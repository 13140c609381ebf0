//! `top_k_keep`, `check_finite` and `keep_kv_heads`: exactly what the CPU backend and a sort say.

use probeprune::{
    Result,
    backend::{Backend, KeptSet},
    cpu::Cpu,
    gpu::{Driver, Gpu, GpuDtype},
};
use rand::RngExt;

use crate::case::{
    Case, Expected, Output, Put, check, check_once, check_traffic, floats, kept_counts, rng, subset, traffic,
};

/// What scores look like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Energies over many decades.
    Decades,
    /// Both signs.
    Signed,
    /// Five values only, 0 of both signs among them.
    Ties,
    /// The lowest bits decide.
    Near,
    Equal,
    /// One infinite, one NaN and one −∞, as far as there is room.
    NotFinite,
}

#[derive(Clone, Debug)]
struct TopKCase {
    kind: Kind,
    of: usize,
    k: usize,
    /// Already in the fault when the operation starts.
    fault: u32,
}

const TAG: u32 = 77;
const UNTOUCHED: u32 = 123_456;

impl TopKCase {
    fn new(kind: Kind, of: usize, k: usize) -> Self {
        Self { kind, of, k, fault: 0 }
    }

    fn scores(&self) -> Vec<f32> {
        let mut rng = rng(self.of as u64);
        let n = self.of;
        let mut value = |i: usize| match self.kind {
            Kind::Decades => 10f32.powf(rng.random_range(-8.0..4.0)),
            Kind::Signed | Kind::NotFinite => rng.random_range(-1.0..1.0),
            Kind::Ties => [0.0, -0.0, 1.0, -1.0, 2.0][rng.random_range(0..5)],
            Kind::Near => f32::from_bits(0x3f80_0000 + rng.random_range(0..64)),
            Kind::Equal => 0.25 * (1 + i / n) as f32,
        };
        let mut scores: Vec<f32> = (0..n).map(&mut value).collect();
        if self.kind == Kind::NotFinite {
            for (at, bad) in [(n / 2, f32::NAN), (n / 3, f32::NEG_INFINITY), (n - 1, f32::INFINITY)] {
                scores[at] = bad;
            }
        }
        scores
    }

    fn run_on<B: Backend>(&self, backend: &B) -> Result<Vec<Output>> {
        let scores = backend.put_statistics(&self.scores());
        let mut kept =
            KeptSet { indices: backend.put_indices(&vec![UNTOUCHED; self.of]), len: self.k, of: self.of };
        let mut fault = backend.put_indices(&[self.fault]);
        backend.top_k_keep(&scores, &mut kept, TAG, &mut fault);
        Ok(vec![
            Output::Indices(backend.download_indices(&kept.indices, self.of)?),
            Output::Indices(backend.download_indices(&fault, 1)?),
        ])
    }

    /// A fault that is there already stays.
    fn expected_fault(&self, finite: bool) -> u32 {
        if finite || self.fault != 0 { self.fault } else { TAG }
    }
}

impl Case for TopKCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        self.run_on(gpu)
    }

    fn expected(&self) -> Vec<Expected> {
        let scores = self.scores();
        let key = |i: u32| Some(scores[i as usize]).filter(|x| !x.is_nan()).unwrap_or(f32::NEG_INFINITY);
        let mut order: Vec<u32> = (0..self.of as u32).collect();
        // Stable: ties stay in the order of their indices.
        order.sort_by(|&a, &b| key(b).partial_cmp(&key(a)).unwrap());
        order.truncate(self.k);
        order.sort_unstable();
        order.resize(self.of, UNTOUCHED);
        let fault = self.expected_fault(scores.iter().all(|x| x.is_finite()));
        vec![Expected::Indices(order), Expected::Indices(vec![fault])]
    }

    fn dtype(&self) -> GpuDtype {
        GpuDtype::Bf16
    }
}

fn agrees_with_the_cpu(case: &TopKCase) {
    let outputs = case.run_on(&Cpu::new(1).unwrap()).unwrap();
    for (output, expected) in outputs.iter().zip(case.expected()) {
        let (Output::Indices(got), Expected::Indices(want)) = (output, expected) else { unreachable!() };
        assert_eq!(*got, want, "the CPU backend, {case:?}");
    }
}

const KINDS: [Kind; 6] = [Kind::Decades, Kind::Signed, Kind::Ties, Kind::Near, Kind::Equal, Kind::NotFinite];

#[test]
fn top_k() {
    for (i, (of, ks)) in [
        (1, vec![1]),
        (31, vec![1, 30, 31]),
        (33, vec![1, 20, 33]),
        (256, vec![100]),
        (257, vec![1, 200, 257]),
    ]
    .into_iter()
    .enumerate()
    {
        for (j, kind) in KINDS.into_iter().enumerate() {
            let case = TopKCase::new(kind, of, ks[(i + j) % ks.len()]);
            check(&case);
            agrees_with_the_cpu(&case);
        }
    }
    check(&TopKCase { fault: 5, ..TopKCase::new(Kind::NotFinite, 40, 7) });
    check(&TopKCase { fault: 5, ..TopKCase::new(Kind::NotFinite, 300, 7) });
}

#[test]
fn top_k_of_nothing_still_reports_faults() {
    check(&TopKCase::new(Kind::Decades, 40, 0));
    check(&TopKCase::new(Kind::NotFinite, 40, 0));
}

#[test]
fn top_k_at_real_widths() {
    // 24576 scores are the most that stay in registers.
    let widths = [
        (1000, 600),
        (1025, 1),
        (4096, 2304),
        (4097, 4097),
        (11008, 6208),
        (12289, 12288),
        (14336, 1),
        (24576, 9000),
        (24577, 9000),
        (28672, 20000),
    ];
    for (i, (of, k)) in widths.into_iter().enumerate() {
        for kind in [KINDS[i % 6], KINDS[(i + 2) % 6], KINDS[(i + 3) % 6]] {
            let case = TopKCase::new(kind, of, k);
            check_once(&case);
            agrees_with_the_cpu(&case);
        }
    }
}

#[test]
fn every_number_of_kept_scores() {
    for len in kept_counts(300) {
        check_once(&TopKCase::new(Kind::Ties, 300, len));
    }
}

#[test]
fn top_k_moves_what_its_header_says() {
    check_traffic(&TopKCase::new(Kind::Decades, 256, 256), "top_k_keep", 4 * 256, 4 * 256);
    // Kept indices of a warp's 32 neighbours begin anywhere in a sector, so a sector may be written twice.
    let case = TopKCase::new(Kind::Decades, 8192, 8192);
    let got = traffic(&case, "top_k_keep");
    // Only the histogram's atomics meet at a bank: with digits that are all the same, nothing does.
    let equal = traffic(&TopKCase::new(Kind::Equal, 8192, 4096), "top_k_keep");
    let (Some(got), Some(equal)) = (got, equal) else { return };
    assert_eq!((got.read, got.written), (4 * 8192, 4 * 8192), "{case:?}");
    assert_eq!(equal.conflicts, 0);
}

#[derive(Clone, Debug)]
struct FiniteCase {
    len: usize,
    bad: Option<(usize, f32)>,
    fault: u32,
}

impl Case for FiniteCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        // One more value than is to be looked at.
        let mut values = floats(&mut rng(1), -1e30..1e30, self.len + 1);
        values[self.len] = f32::NAN;
        if let Some((at, bad)) = self.bad {
            values[at] = bad;
        }
        let mut fault = gpu.put_indices(&[self.fault]);
        gpu.check_finite(&gpu.put_statistics(&values), self.len, TAG, &mut fault);
        Ok(vec![Output::Indices(gpu.download_indices(&fault, 1)?)])
    }

    fn expected(&self) -> Vec<Expected> {
        let found = if self.bad.is_some() && self.fault == 0 { TAG } else { self.fault };
        vec![Expected::Indices(vec![found])]
    }

    fn dtype(&self) -> GpuDtype {
        GpuDtype::Bf16
    }
}

#[test]
fn check_finite() {
    for (len, fault) in [(1, 0), (31, 0), (33, 9), (1000, 0), (1025, 0), (4096, 3)] {
        check(&FiniteCase { len, bad: None, fault });
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, len / 2, len - 1] {
                check_once(&FiniteCase { len, bad: Some((at, bad)), fault });
            }
        }
        check(&FiniteCase { len, bad: Some((len - 1, f32::NAN)), fault });
    }
    check_traffic(&FiniteCase { len: 8192, bad: None, fault: 0 }, "check_finite", 4 * 8192, 0);
}

#[derive(Clone, Debug)]
struct KvCase {
    heads: usize,
    group: usize,
    kept: usize,
}

impl KvCase {
    fn run_on<B: Backend>(&self, backend: &B) -> Result<Vec<Output>> {
        let heads = backend.put_kept(&self.kept_heads(), self.heads);
        let of = self.heads / self.group;
        let mut kv_kept = KeptSet { indices: backend.put_indices(&vec![7; of]), len: self.kept.min(of), of };
        let mut slots = backend.put_indices(&vec![UNTOUCHED; self.heads]);
        backend.keep_kv_heads(&heads, self.group, &mut kv_kept, &mut slots);
        Ok(vec![
            Output::Indices(backend.download_indices(&kv_kept.indices, of)?),
            Output::Indices(backend.download_indices(&slots, self.heads)?),
        ])
    }

    fn kept_heads(&self) -> Vec<u32> {
        subset(&mut rng(3), self.heads, self.kept)
    }
}

impl Case for KvCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        self.run_on(gpu)
    }

    fn expected(&self) -> Vec<Expected> {
        let heads = self.kept_heads();
        let mut used: Vec<u32> = heads.iter().map(|head| head / self.group as u32).collect();
        let of_head = used.clone();
        used.dedup();
        let slot = |kv: &u32| used.iter().position(|used| used == kv).unwrap() as u32;
        let mut slots: Vec<u32> = of_head.iter().map(slot).collect();
        slots.resize(self.heads, UNTOUCHED);
        used.resize(self.heads / self.group, u32::MAX);
        vec![Expected::Indices(used), Expected::Indices(slots)]
    }

    fn dtype(&self) -> GpuDtype {
        GpuDtype::F16
    }
}

#[test]
fn kv_heads() {
    for (heads, group, kept) in
        [(1, 1, 1), (9, 3, 4), (32, 1, 18), (32, 8, 3), (64, 8, 33), (96, 2, 50), (140, 1, 140), (71, 71, 40)]
    {
        let case = KvCase { heads, group, kept };
        check(&case);
        let on_cpu = case.run_on(&Cpu::new(1).unwrap()).unwrap();
        for (output, expected) in on_cpu.iter().zip(case.expected()) {
            let (Output::Indices(got), Expected::Indices(want)) = (output, expected) else { unreachable!() };
            assert_eq!(*got, want, "the CPU backend, {case:?}");
        }
    }
    check_traffic(&KvCase { heads: 64, group: 1, kept: 64 }, "keep_kv_heads", 4 * 64, 2 * 4 * 64);
}
