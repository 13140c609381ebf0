//! Everything a user can get wrong gives an error that names it, and nothing panics.

mod common;

use common::module;
use proptest::prelude::*;
use ptx_emu::{Args, Device, Error, FaultKind, Launch, Module, Settings, Struct, Swizzle, TensorMap};

/// A kernel around one line of PTX.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n\
         .reg .pred %p<4>;\n.reg .b32 %r<8>;\n.reg .b64 %rd<8>;\n.shared .align 16 .b8 s[64];\n{body}\nret;\n}}\n"
    )
}

fn launch(text: &str, threads: u32) -> ptx_emu::Result<ptx_emu::Counters> {
    let mut dev = Device::new();
    let p = dev.alloc("p", 64)?;
    Module::parse(text)
        .and_then(|m| dev.launch(&m, "k", Launch::linear(1, threads, 0), &Args::new().arg(p), &quick()))
}

/// Random programs may loop for ever.
fn quick() -> Settings {
    Settings { step_limit: 20_000, ..Settings::default() }
}

#[test]
fn unknown_instructions_name_their_line() {
    for (body, reason) in [
        ("frobnicate.b32 %r1, %r2;", "unknown instruction"),
        ("add.s32.funny %r1, %r2, %r3;", "`.funny`"),
        ("sqrt.rz.f32 %r1, %r2;", "directed rounding"),
        ("call (%r1), foo, (%r2);", "unknown instruction"),
        ("mov.u32 %r1, %clock;", "`%clock`"),
        ("add.s32 %r1, %r2;", "sources"),
        ("add.s64 %r1, %rd1, %rd2;", "does not fit"),
        ("shfl.idx.b32 %r1, %r2, 0, 31;", "`.sync`"),
        ("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 %r1, %r1, %r1, %r1;", "shape"),
        (
            "wgmma.fence.sync.aligned;\nwgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%r1,%r2,%r3,%r4}, %rd1, %rd2, %p1, 1, 1, 0, 0;",
            "sm_80",
        ),
    ] {
        let m = Module::parse(&kernel(body)).unwrap();
        let e = m.check().unwrap_err();
        let Error::Unsupported { line, reason: why, .. } = &e else { panic!("{e}") };
        let extra = body.lines().count() as u32 - 1;
        assert_eq!(*line, 10 + extra, "{e}");
        assert!(why.contains(reason), "{body}: {e}");
        assert!(e.to_string().contains("PTX line"), "{e}");
    }
}

#[test]
fn bad_text_names_its_line() {
    for (text, line) in [
        ("nonsense", 1),
        (".version 8.0\n.target sm_80\n.entry k(\n", 3),
        (".entry k() {\n bra nowhere;\n ret;\n}", 2),
        (".entry k() {\n .reg .b32 %r<9>;\n mov.u32 %r9, 0 }", 3),
        (".entry k() {\n .reg .b32 %r<4000000000>;\n}", 2),
        (".global .b8 x[99999999999999];", 1),
        (".entry k() { a: a: ret; }", 1),
        ("/* open", 1),
        (".file 1 \"open", 1),
        (".entry k() { ret;\n € }", 2),
    ] {
        match Module::parse(text) {
            Err(Error::Parse { line: at, .. }) => assert_eq!(at, line, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn launches_are_checked() {
    let m = module("reduce");
    let mut dev = Device::new();
    let p = dev.alloc("x", 64).unwrap();
    let good = Struct::new().field(p).field(p).field(p).field(p).field(0i32).args();
    let s = Settings::default();
    let go = |dev: &mut Device, name: &str, l: Launch, a: &Args| {
        dev.launch(&m, name, l, a, &s).unwrap_err().to_string()
    };
    let line = Launch::linear(1, 256, 148);
    let missing = go(&mut dev, "reduse", line, &good);
    assert!(missing.contains("\"reduse\"") && missing.contains("warp_sum_shared"), "{missing}");
    for (what, l, args) in [
        ("argument 0: expected 40 bytes, got 8 bytes", line, Args::new().arg(p)),
        ("expected 1 arguments, got 0", line, Args::new()),
        ("argument 0: expected alignment 8, got alignment 4", line, Args::new().structure(&[0; 40], 4)),
        ("at most 256 threads, by its launch bounds, got 512", Launch::linear(1, 512, 0), good.clone()),
        ("block: expected 1 to 1024", Launch::linear(1, 0, 0), good.clone()),
        ("grid: expected at least 1 block", Launch::linear(0, 256, 0), good.clone()),
        ("shared memory: expected at most", Launch::linear(1, 256, 1 << 20), good.clone()),
    ] {
        let e = go(&mut dev, "reduce", l, &args);
        assert!(e.contains(what), "{e}");
    }
    // The kernel carves 148 bytes.
    let e = dev.launch(&m, "reduce", Launch::linear(1, 256, 64), &good, &s).unwrap_err();
    assert_eq!(e.fault().map(|f| f.kind), Some(FaultKind::OutOfBounds), "{e}");
}

#[test]
fn device_memory_is_checked() {
    let mut dev = Device::new();
    let p = dev.upload("x", &[1u32, 2]).unwrap();
    assert!(
        dev.read::<u32>(p, 3).is_err() && dev.read::<u32>(p + 8, 1).is_err() && dev.read::<u8>(0, 1).is_err()
    );
    assert!(dev.write(p + 4, &[1u64]).is_err() && dev.fill(p, 0, 9).is_err() && dev.free(p + 1).is_err());
    assert!(dev.alloc("huge", 1 << 40).is_err());
    assert_eq!(dev.read::<u32>(p + 4, 1).unwrap(), [2]);
    dev.free(p).unwrap();
    assert!(dev.read::<u32>(p, 1).is_err());
}

#[test]
fn tensor_maps_are_checked() {
    let map = |es, base, size: &[u64], stride: &[u64], bx: &[u32], s| {
        TensorMap::tiled(es, base, size, stride, bx, s)
    };
    assert!(map(2, 256, &[64, 8], &[128], &[64, 8], Swizzle::B128).is_ok());
    for (what, m) in [
        ("rank", map(2, 256, &[], &[], &[], Swizzle::None)),
        ("lengths", map(2, 256, &[64, 8], &[], &[64, 8], Swizzle::None)),
        ("element size", map(3, 256, &[64], &[], &[64], Swizzle::None)),
        ("base address", map(2, 264, &[64], &[], &[64], Swizzle::None)),
        ("size of dimension 0", map(2, 256, &[0], &[], &[64], Swizzle::None)),
        ("stride of dimension 1", map(2, 256, &[65, 8], &[130], &[64, 8], Swizzle::None)),
        ("box size of dimension 1", map(2, 256, &[64, 300], &[128], &[64, 257], Swizzle::None)),
        ("innermost box size", map(2, 256, &[64], &[], &[4], Swizzle::None)),
        ("innermost box size", map(2, 256, &[128], &[], &[128], Swizzle::B128)),
    ] {
        let e = m.unwrap_err().to_string();
        assert!(e.contains(what), "{what}: {e}");
    }
}

#[test]
fn faults_name_what_happened() {
    for (body, kind) in [
        ("ld.global.u32 %r1, [%rd1];", FaultKind::OutOfBounds),
        ("ld.param.u64 %rd1, [p];\nld.global.u32 %r1, [%rd1+2];", FaultKind::Misaligned),
        ("ld.param.u64 %rd1, [p];\nld.global.u32 %r1, [%rd1];", FaultKind::Uninitialised),
        ("ld.shared.u32 %r1, [s];", FaultKind::Uninitialised),
        ("ld.shared.u32 %r1, [s+64];", FaultKind::OutOfBounds),
        ("st.shared.u32 [s], 1;", FaultKind::Race),
        ("a: bra a;", FaultKind::StepLimit),
        ("trap;", FaultKind::Undefined),
        ("activemask.b32 %r1;", FaultKind::Convergence),
        ("mbarrier.arrive.shared.b64 _, [s];", FaultKind::Barrier),
        ("bar.sync 16;", FaultKind::Barrier),
        ("bar.sync 1, 64;", FaultKind::Deadlock),
        ("shfl.sync.idx.b32 %r1, %r2, 0, 31, 1;", FaultKind::Convergence),
    ] {
        let e = launch(&kernel(body), 32).unwrap_err();
        assert_eq!(e.fault().map(|f| f.kind), Some(kind), "{body}: {e}");
    }
    // Nothing is lost by exiting in a loop of one warp and waiting in another.
    assert!(launch(&kernel("bar.sync 0;"), 64).is_ok());
}

/// Pieces of programs, for texts that get past the parser.
fn pieces() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("add.s32"),
        Just("mul.wide.u32"),
        Just("ld.global.u32"),
        Just("st.shared.v2.u32"),
        Just("@%p1 bra"),
        Just("setp.lt.s32"),
        Just("mov.b64"),
        Just("shfl.sync.bfly.b32"),
        Just("bar.sync"),
        Just("cvt.rni.s64.f32"),
        Just("mbarrier.init.shared.b64"),
        Just("mbarrier.try_wait.parity.shared.b64"),
        Just("wgmma.wait_group.sync.aligned"),
        Just("cp.async.ca.shared.global"),
        Just("ldmatrix.sync.aligned.m8n8.x2.shared.b16"),
        Just("atom.shared.add.u32"),
        Just("bfi.b32"),
        Just("prmt.b32"),
        Just("div.s64"),
        Just("ex2.approx.f32"),
        Just("vote.sync.ballot.b32"),
        Just("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"),
        Just("lop3.b32"),
        Just("ret"),
    ];
    let operand = prop_oneof![
        Just("%r1"),
        Just("%r2"),
        Just("%rd1"),
        Just("%rd2"),
        Just("%p1"),
        Just("[s]"),
        Just("[%rd1+4]"),
        Just("7"),
        Just("-1"),
        Just("0f3F800000"),
        Just("{%r1,%r2}"),
        Just("%tid.x"),
        Just("p"),
        Just("_"),
        Just("!%p2"),
        Just("here"),
        Just("[%rd1, {%r1, %r2}]"),
        Just("[s+8]"),
        Just("0xffffffff"),
        Just("%p1|%p2"),
        Just("16"),
    ];
    let line =
        (word, prop::collection::vec(operand, 0..5)).prop_map(|(w, o)| format!("{w} {};\n", o.join(", ")));
    prop::collection::vec(line, 1..6).prop_map(|l| kernel(&format!("here:\n{}", l.concat())))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// Random, almost valid programs are parsed, decoded and run, or refused: they never panic.
    #[test]
    fn programs_never_panic(text in pieces()) {
        let _ = launch(&text, 48);
    }

    /// Real PTX with bytes changed, cut out or doubled never panics, not even when it runs.
    #[test]
    fn damaged_modules_never_panic(at in 0usize..30_000, len in 0usize..40, mode in 0u8..5, with in "[ -~\\n]{0,6}") {
        let name = ["reduce", "topk", "gemm_wgmma"][at % 3];
        let path = format!("{}/kernels/ptx/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
        let mut text = std::fs::read(path).unwrap();
        let (from, to) = (at % text.len(), (at % text.len() + len).min(text.len()));
        match mode {
            0 => drop(text.splice(from..to, with.bytes())),
            1 => text.truncate(from),
            2 | 3 => {
                // A whole line, left out or said twice.
                let start = text[..from].iter().rposition(|&b| b == b'\n').map_or(0, |p| p + 1);
                let end = text[from..].iter().position(|&b| b == b'\n').map_or(text.len(), |p| from + p + 1);
                let line = text[start..end].to_vec();
                drop(text.splice(start..end, if mode == 2 { Vec::new() } else { line.repeat(2) }));
            }
            _ => {
                let copy = text[from..to].to_vec();
                drop(text.splice(from..from, copy));
            }
        }
        if let Ok(m) = Module::parse(&String::from_utf8_lossy(&text)) {
            let _ = m.check();
            // What still parses also runs, or is refused.
            let _ = match name {
                "reduce" => common::reduce(&m, 300, 1, &quick()),
                "topk" => common::topk(&m, 1, 70, 5, 64, &quick()),
                _ => GEMM.with(|g| g.wgmma(&m, &quick())),
            };
        }
    }
}

thread_local! {
    static GEMM: common::Gemm = common::Gemm::new(64, 64, 128);
}
