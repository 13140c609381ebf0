//! Every planted bug is caught by the diagnostic that should catch it, whatever the schedule.
//!
//! The kernels are compiled with `-DBUG=n`; their sources say in one line what each number plants.

mod common;

use common::{Gemm, Modules, Outcome, reduce, topk, warp_sum};
use ptx_emu::{
    Completion,
    FaultKind::{
        self, AsyncLeak, Barrier, Deadlock, Descriptor, MissingProxyFence, OutOfBounds, Race, Uninitialised,
        WgmmaOrder,
    },
    Policy, Settings,
};

/// A bug: module, what is wrong, the diagnostics that may notice it (which one depends on the access that the schedule
/// makes first), and the source line that has to be named, by a part of its text.
struct Bug(&'static str, &'static str, &'static [FaultKind], &'static str);

const TABLE: &[Bug] = &[
    Bug(
        "bug_reduce_1",
        "no barrier between writing and reading partial sums",
        &[Race, Uninitialised],
        "part[lane] : 0.f",
    ),
    Bug("bug_reduce_2", "partial sums written past their array", &[OutOfBounds], "part[warp +"),
    Bug("bug_reduce_3", "partial sums read that no warp wrote", &[Uninitialised], "part[lane] : 0.f"),
    Bug("bug_reduce_4", "all blocks write one partial sum", &[Race], "p.partial[BUG == 4"),
    Bug("bug_reduce_5", "input read past its end", &[OutOfBounds], "s += p.x[i]"),
    Bug("bug_reduce_6", "barrier that half a warp skips", &[Deadlock], "BUG == 6 &&"),
    Bug("bug_reduce_7", "last block: counter raised without a fence before", &[Race], "t += p.partial[i]"),
    Bug("bug_reduce_8", "last block: partial sums read without a fence before", &[Race], "t += p.partial[i]"),
    Bug("bug_reduce_9", "lanes assumed to run in step", &[Race], "float t = l < d"),
    Bug("bug_topk_1", "histogram cleared past its end", &[OutOfBounds], "hist[i] = 0"),
    Bug("bug_topk_2", "histogram raised without an atomic", &[Race], "hist[digit] +="),
    Bug("bug_topk_3", "match with a full mask in divergent code", &[Deadlock], "__match_any_sync"),
    Bug("bug_topk_4", "no __syncwarp between all reading and one writing", &[Race], "state[1] = need"),
    Bug("bug_gemm_mma_1", "copies not waited for", &[Race], "ldmatrix_x4(fa"),
    Bug("bug_gemm_mma_2", "buffer refilled while other warps read it", &[Race], "load((kt + 1) & 1"),
    Bug("bug_gemm_mma_3", "row M of A read", &[OutOfBounds], "cp_async16(sa"),
    Bug("bug_gemm_mma_4", "waits for one group too few", &[Race], "ldmatrix_x4(fa"),
    Bug("bug_gemm_mma_5", "two operands of the mma statement swapped", &[], ""),
    Bug(
        "bug_gemm_wgmma_1",
        "stage refilled without waiting for its consumers",
        &[Race, Barrier],
        "&map_a|expect(full",
    ),
    Bug("bug_gemm_wgmma_2", "more bytes expected than come", &[Deadlock], "mbarrier_wait(full"),
    Bug("bug_gemm_wgmma_3", "stage released before wgmma has read it", &[Race], "&map_a"),
    Bug("bug_gemm_wgmma_4", "64-byte swizzle for 128-byte data", &[Descriptor], "wgmma_m64n64k16_bf16(d"),
    Bug(
        "bug_gemm_wgmma_5",
        "data used without waiting for it",
        &[Race, Uninitialised],
        "wgmma_m64n64k16_bf16(d",
    ),
    Bug("bug_gemm_wgmma_6", "result stored without fence.proxy.async", &[MissingProxyFence], "tma_store_2d"),
    Bug(
        "bug_gemm_wgmma_7",
        "twice the stride in a descriptor",
        &[Race, Uninitialised],
        "wgmma_m64n64k16_bf16(d",
    ),
    Bug("bug_gemm_wgmma_8", "fewer bytes expected than come", &[Deadlock], "mbarrier_wait(full"),
    Bug("bug_gemm_wgmma_9", "producer's phase never flips", &[Race, Barrier], "&map_a|expect(full"),
    Bug("bug_gemm_wgmma_10", "no wgmma.fence", &[WgmmaOrder], "wgmma_m64n64k16_bf16(d"),
    Bug("bug_gemm_wgmma_11", "accumulators read without wgmma.wait_group", &[WgmmaOrder], "sc[r * BN + c] ="),
    Bug("bug_gemm_wgmma_12", "block ends while the store reads shared memory", &[AsyncLeak], "^}"),
];

/// Source file of a module, and the lines that contain one of the texts.
fn lines(module: &str, texts: &str) -> (String, Vec<u32>) {
    let stem = module.trim_start_matches("bug_").trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
    let name = format!("{stem}.cu");
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(&name);
    let source = std::fs::read_to_string(path).unwrap();
    let hit = |line: &str| {
        texts
            .split('|')
            .any(|t| t.strip_prefix('^').map_or(line.contains(t), |start| line.starts_with(start)))
    };
    (name, source.lines().zip(1..).filter(|(l, _)| hit(l)).map(|(_, n)| n).collect())
}

fn run(modules: &mut Modules, name: &str, settings: &Settings) -> Outcome {
    let m = modules.get(name);
    match name {
        "bug_reduce_9" => warp_sum(m, settings),
        n if n.starts_with("bug_reduce") => reduce(m, 10_001, 3, settings),
        n if n.starts_with("bug_topk") => topk(m, 3, 1000, 33, 128, settings),
        "bug_gemm_mma_3" => Gemm::new(100, 72, 136).mma(m, settings),
        n if n.starts_with("bug_gemm_mma") => Gemm::new(128, 128, 128).mma(m, settings),
        // Ten steps: the three stages wrap more than twice.
        _ => Gemm::new(64, 64, 640).wgmma(m, settings),
    }
}

#[test]
fn each_is_caught_by_its_diagnostic() {
    assert!(TABLE.len() >= 25);
    let mut modules = Modules::default();
    for Bug(name, what, kinds, texts) in TABLE {
        let (file, at) = lines(name, texts);
        for settings in Settings::matrix(5) {
            let outcome = run(&mut modules, name, &settings);
            let Err(error) = &outcome else {
                // Well-formed programs that compute something else: only the result can tell.
                let caught = kinds.is_empty() && outcome.is_ok_and(|(_, right)| !right);
                assert!(caught, "{name} ({what}) was missed under {settings:?}");
                continue;
            };
            let fault = error.fault().unwrap_or_else(|| panic!("{name}: {error}"));
            assert!(kinds.contains(&fault.kind), "{name} ({what}) under {settings:?}: {fault}");
            let mut sites = std::iter::once(&fault.at).chain(fault.others.iter().map(|(_, site)| site));
            let named = sites.any(|site| at.iter().any(|&line| site.is_at(&file, line)));
            assert!(named, "{name}: none of {file}:{at:?} in {fault}");
            assert!(error.to_string().contains(&fault.kernel) && !fault.kernel.is_empty());
        }
    }
}

/// Without the checker, in the one order that a careless emulator would pick, several of them give the right result and
/// no report: this is why it exists.
#[test]
fn some_never_show_in_results() {
    let mut modules = Modules::default();
    let unchecked =
        Settings { policy: Policy::Forward, completion: Completion::Eager, ..Settings::unchecked() };
    let silent: Vec<&str> = TABLE
        .iter()
        .map(|b| b.0)
        .filter(|n| run(&mut modules, n, &unchecked).is_ok_and(|(_, right)| right))
        .collect();
    for race in ["bug_reduce_8", "bug_topk_2", "bug_topk_4", "bug_gemm_mma_1", "bug_gemm_wgmma_6"] {
        assert!(silent.contains(&race), "{race} shows: {silent:?}");
    }
}
