//! Counters against values computed by hand.

mod common;

use common::module;
use ptx_emu::{Counters, Device, Launch, Policy, Settings, Struct};

struct Case {
    kernel: &'static str,
    rows: usize,
    columns: usize,
    stride: usize,
    index: Vec<i32>,
    launch: Launch,
}

fn case(kernel: &'static str, rows: usize, columns: usize, launch: Launch) -> Case {
    Case { kernel, rows, columns, stride: 1, index: Vec::new(), launch }
}

/// Runs a case; `want` maps an index of the output to an index of the input.
fn run(c: &Case, outputs: usize, inputs: usize, want: impl Fn(usize) -> usize) -> Counters {
    let m = module("traffic");
    let x: Vec<f32> = (0..inputs).map(|i| i as f32).collect();
    let mut dev = Device::new();
    let px = dev.upload("x", &x).unwrap();
    let py = dev.alloc("y", outputs * 4).unwrap();
    let index = dev.upload("index", &c.index).unwrap();
    let fields = Struct::new().field(px).field(py).field(index);
    let args = fields.field(c.rows as i32).field(c.columns as i32).field(c.stride as i32).args();
    let counters =
        dev.launch(&m, c.kernel, c.launch, &args, &Settings::default()).unwrap_or_else(|e| panic!("{e}"));
    let y = dev.read::<f32>(py, outputs).unwrap();
    (0..outputs).for_each(|i| assert_eq!(y[i], want(i) as f32, "{} at {i}", c.kernel));
    counters
}

#[test]
fn copy_moves_each_sector_once() {
    // 8 warps of 128 bytes: 4 sectors each way per warp.
    let c = run(&case("copy", 1, 256, Launch::linear(1, 256, 0)), 256, 256, |i| i);
    assert_eq!((c.global_read_sectors, c.global_read_sectors_min, c.global_read_bytes), (32, 32, 1024));
    assert_eq!((c.global_write_sectors, c.global_write_sectors_min, c.global_write_bytes), (32, 32, 1024));
    assert_eq!((c.shared_wavefronts, c.shared_conflicts, c.divergent_branches), (0, 0, 0));
    assert_eq!(c.memory, 2 * 8 + params(&c, 8));
    // 100 of 256 threads: three full warps, and 4 lanes of the fourth, which use 16 bytes of one sector.
    let c = run(&case("copy", 1, 100, Launch::linear(1, 256, 0)), 100, 100, |i| i);
    assert_eq!((c.global_read_sectors, c.global_read_sectors_min, c.global_read_bytes), (13, 13, 400));
}

/// Loads of parameters, the same number in each warp.
fn params(c: &Counters, warps: u64) -> u64 {
    let others = c.memory - 2 * warps;
    assert_eq!(others % warps, 0);
    others
}

#[test]
fn vectors_move_four_times_as_much_per_instruction() {
    // 2 warps of 512 bytes: 16 sectors each.
    let c = run(&case("copy_vec4", 1, 256, Launch::linear(1, 64, 0)), 256, 256, |i| i);
    assert_eq!((c.global_read_sectors, c.global_write_sectors, c.global_read_bytes), (32, 32, 1024));
}

#[test]
fn transposes_conflict_unless_padded() {
    // 64x32 in 2 tiles. A tile is 32 row writes and 32 column reads of shared memory, 128 bytes each. With a pitch of 32
    // words all lanes of a column are in one bank: 32 passes, 31 too many. With 33 they are in 32 banks.
    for (kernel, pitch, conflicts) in [("transpose", 32, 2 * 32 * 31), ("transpose_padded", 33, 0)] {
        let launch = Launch { grid: [1, 2, 1], block: [32, 8, 1], shared: 32 * pitch * 4 };
        let c = run(&case(kernel, 64, 32, launch), 2048, 2048, |i| (i % 64) * 32 + i / 64);
        assert_eq!(c.shared_conflicts, conflicts, "{kernel}");
        assert_eq!(c.shared_wavefronts, 2 * 64 + conflicts, "{kernel}");
        // Every global access is a full row of 4 sectors: 64 rows in, 64 out.
        assert_eq!((c.global_read_sectors, c.global_write_sectors), (256, 256), "{kernel}");
        assert_eq!((c.global_read_sectors_min, c.global_write_sectors_min), (256, 256), "{kernel}");
    }
}

#[test]
fn strides_waste_sectors() {
    // 2 warps. Stride 2: 32 floats spread over 64, 8 sectors where 4 would do; stride 8 and more: one sector per float.
    for (stride, sectors) in [(1, 4), (2, 8), (3, 12), (8, 32), (9, 32)] {
        let mut k = case("strided", 1, 64, Launch::linear(2, 32, 0));
        k.stride = stride;
        let c = run(&k, 64, 63 * stride + 1, |i| i * stride);
        // With stride 3 the second warp starts at byte 384, again on a sector; with stride 9 at 1152.
        assert_eq!(c.global_read_sectors, 2 * sectors, "stride {stride}");
        assert_eq!(c.global_read_sectors_min, 8, "stride {stride}");
        assert_eq!(c.global_write_sectors, 8, "stride {stride}");
    }
}

#[test]
fn gathered_rows_pay_for_their_ends() {
    // Rows of 40 floats, 160 bytes, start on sectors: a warp reads 32 floats (4 sectors), then 8 (1 sector). The index is
    // one broadcast sector, of which 4 bytes are used.
    let mut k = case("gather", 4, 40, Launch::linear(3, 32, 0));
    k.index = vec![3, 0, 2];
    let index = k.index.clone();
    let c = run(&k, 120, 160, |i| index[i / 40] as usize * 40 + i % 40);
    assert_eq!(c.global_read_sectors, 3 * (4 + 1 + 1));
    assert_eq!(c.global_read_sectors_min, 3 * (4 + 1 + 1));
    assert_eq!(c.global_read_bytes, 3 * (160 + 4));
    assert_eq!(c.global_write_sectors, 3 * 5);
    // Rows of 33 floats start anywhere: row 1 covers bytes 132..264, sectors 4..8; its first warp access 132..260 touches
    // 5 sectors for 128 bytes, the last float (260..264) one.
    let mut k = case("gather", 2, 33, Launch::linear(1, 32, 0));
    k.index = vec![1];
    let c = run(&k, 33, 66, |i| 33 + i);
    assert_eq!((c.global_read_sectors, c.global_read_sectors_min), (5 + 1 + 1, 4 + 1 + 1));
}

/// The bounds tests of a ragged product diverge. Under `Forward` the lanes meet again where the code does; the other
/// policies may run them apart for longer, which takes more warp instructions for the same thread instructions.
#[test]
fn counters_do_not_depend_on_completion() {
    let m = module("gemm_mma");
    let g = common::Gemm::new(100, 72, 136);
    let count = |s: &Settings| g.mma(&m, s).unwrap().0;
    let reference = count(&Settings::default());
    for s in Settings::matrix(3) {
        let c = count(&s);
        if s.policy == Policy::Forward {
            assert_eq!(c, reference, "{s:?}");
        }
        let same =
            |c: &Counters| (c.thread_instructions, c.tensor_flops, c.cp_async_bytes, c.shared_conflicts);
        assert_eq!(same(&c), same(&reference), "{s:?}");
        assert!(c.instructions >= reference.instructions, "{s:?}");
    }
}
