//! What each kernel's header claims is what `cuda/resources.json` measured (`tools/kernels/cuda.sh resources`), kernels, PTX,
//! tests and backend know the same names, and no kernel spills. Needs no CUDA toolkit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use probeprune::gpu::driver::MAX_ARGUMENT_BYTES;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files of a folder with one of these extensions, by name.
fn files(folder: &str, extensions: &[&str]) -> BTreeMap<String, String> {
    let paths = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let wanted = |path: &PathBuf| path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x));
    let named = |path: PathBuf| (path.file_name().unwrap().to_str().unwrap().to_string(), read(&path));
    paths.filter(wanted).map(named).collect()
}

fn resources() -> BTreeMap<String, Value> {
    serde_json::from_str(&read("cuda/resources.json")).unwrap()
}

/// What a file's header says, of what can be checked.
#[derive(Debug, PartialEq)]
struct Header {
    registers: u64,
    static_shared: u64,
    tests: Vec<String>,
}

const FIELDS: [&str; 6] =
    ["Launch: ", "Registers: ", "Bytes: ", "Bank conflicts: ", "Accumulation: ", "Test: "];

/// The comment that a file begins with: purpose, shapes, then [`FIELDS`] in this order; each may go on for more lines.
fn parse_header(text: &str) -> Result<Header, String> {
    let lines = text.lines().map_while(|line| line.strip_prefix("//")).map(str::trim);
    let (mut head, mut fields) = (Vec::new(), Vec::<String>::new());
    for line in lines {
        match FIELDS.iter().position(|field| line.starts_with(field.trim_end())) {
            Some(at) if at != fields.len() => return Err(format!("{line:?} is out of order")),
            Some(at) => fields.push(line.strip_prefix(FIELDS[at]).unwrap_or_default().to_string()),
            None => match fields.last_mut() {
                Some(field) => *field += &format!(" {line}"),
                None => head.push(line),
            },
        }
    }
    if fields.len() < FIELDS.len() {
        return Err(format!("no line {:?}", FIELDS[fields.len()]));
    }
    if let Some(at) = fields.iter().position(String::is_empty) {
        return Err(format!("nothing behind {:?}", FIELDS[at]));
    }
    if head.first().is_none_or(|purpose| purpose.is_empty()) {
        return Err("no purpose".to_string());
    }
    if !head.iter().any(|line| line.contains("->")) {
        return Err("no line `inputs -> outputs`".to_string());
    }
    let numbers = || {
        let (registers, rest) = fields[1].strip_prefix("at most ")?.split_once(". Static shared memory: ")?;
        let (shared, dynamic) = rest.split_once(" bytes. Dynamic shared memory: ")?;
        (!dynamic.is_empty()).then_some((registers.parse().ok()?, shared.parse().ok()?))
    };
    let (registers, static_shared) = numbers().ok_or_else(|| {
        "not `Registers: at most N. Static shared memory: N bytes. Dynamic shared memory: …`".to_string()
    })?;
    let module = |test: &str| test.trim().strip_prefix("gpu_ops::").map(str::to_string);
    let tests = fields[5].split(',').map(module).collect::<Option<Vec<_>>>();
    let tests = tests.ok_or_else(|| "not `Test: gpu_ops::module`".to_string())?;
    Ok(Header { registers, static_shared, tests })
}

/// Names of a PTX file's kernels.
fn entries(ptx: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let rest = line.split_once(".entry ")?.1;
        Some(rest.split(['(', ' ']).next()?.to_string())
    };
    ptx.lines().filter(|line| !line.trim_start().starts_with("//")).filter_map(name).collect()
}

/// A kernel's name without its dtype.
fn base(kernel: &str) -> &str {
    kernel.strip_suffix("_bf16").or_else(|| kernel.strip_suffix("_f16")).unwrap_or(kernel)
}

/// Kernels that multiply matrices must do so on tensor cores, from asynchronous copies of 16 bytes. Products with few
/// rows are as fast as memory without, and what only adds up partial results multiplies nothing.
fn multiplies_matrices(kernel: &str) -> bool {
    let families = ["linear", "logits", "gated_linear", "project", "cross_entropy", "attention"];
    let without = ["gemv", "decode", "combine"];
    let base = base(kernel);
    let starts =
        |family: &str| base.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    base != kernel
        && families.iter().any(|family| starts(family))
        && !base.split('_').any(|word| without.contains(&word))
}

/// The errors in one kernel's header.
fn complaints(kernel: &str, measured: &Value, header: &Header) -> Vec<String> {
    let number = |arch: &str, what: &str| {
        let number = measured[arch][what].as_u64();
        number.unwrap_or_else(|| panic!("resources.json: no {what} of {kernel} for {arch}"))
    };
    let mut wrong = Vec::new();
    for arch in ["sm_80", "sm_90a"] {
        let none = ["spill_stores", "spill_loads", "stack"].map(|what| (what, 0));
        let claims = [("registers", header.registers), ("static_shared", header.static_shared)];
        for (what, most) in claims.into_iter().chain(none) {
            let has = number(arch, what);
            if has > most {
                wrong.push(format!("{kernel}, {arch}: {has} {what}, at most {most} allowed"));
            }
        }
    }
    if number("sm_80", "local") > 0 {
        wrong.push(format!("{kernel} uses local memory"));
    }
    if multiplies_matrices(kernel) {
        for (instruction, what) in
            [("hmma", "tensor cores"), ("ldgsts_128", "asynchronous copies of 16 bytes")]
        {
            if number("sm_80", instruction) == 0 {
                wrong.push(format!("{kernel} does not use {what}"));
            }
        }
    }
    wrong
}

#[test]
fn headers_say_what_was_measured() {
    let resources = resources();
    let mut wrong = Vec::new();
    for (file, text) in files("cuda", &["cu"]) {
        let kernels: Vec<_> = resources.iter().filter(|(_, measured)| measured["file"] == *file).collect();
        match parse_header(&text) {
            Err(error) => wrong.push(format!("cuda/{file}: {error}")),
            Ok(_) if kernels.is_empty() => wrong.push(format!("cuda/{file}: no kernel in resources.json")),
            Ok(header) => wrong.extend(kernels.iter().flat_map(|(name, m)| complaints(name, m, &header))),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn headers_name_a_test() {
    let main = read("tests/gpu_ops/main.rs");
    let is_there = |test: &String| main.lines().any(|line| line == format!("mod {test};"));
    let tests = |text: &str| parse_header(text).map_or_else(|_| Vec::new(), |header| header.tests);
    let missing = |(file, text): (String, String)| {
        tests(&text)
            .into_iter()
            .filter(|test| !is_there(test))
            .map(move |t| format!("cuda/{file}: gpu_ops::{t}"))
            .collect()
    };
    let missing: Vec<Vec<String>> = files("cuda", &["cu"]).into_iter().map(missing).collect();
    assert!(missing.concat().is_empty(), "no such module: {:?}", missing.concat());
}

/// Every kernel of a file has to be launched by cases with checked results: a test of a module that its header names says so.
#[test]
fn every_kernel_is_launched_by_checked_cases() {
    let covered = |name: &str, tests: &[String]| {
        tests.iter().any(|test| {
            let text = read(format!("tests/gpu_ops/{test}.rs"));
            let calls = text.split("launched_all_of(&[").skip(1).filter_map(|rest| rest.split_once(']'));
            calls.into_iter().any(|(names, _)| names.split(", ").any(|n| n.trim_matches('"') == name))
        })
    };
    for (file, text) in files("cuda", &["cu"]) {
        let tests = parse_header(&text).map_or_else(|_| Vec::new(), |header| header.tests);
        let name = file.trim_end_matches(".cu");
        assert!(covered(name, &tests), "none of gpu_ops::{tests:?} calls launched_all_of for {name}");
    }
}

#[test]
fn sources_ptx_resources_and_backend_name_the_same_kernels() {
    let sources: BTreeSet<_> = files("cuda", &["cu"]).into_keys().map(|f| f.replace(".cu", "")).collect();
    let ptx: BTreeMap<String, BTreeSet<String>> =
        files("cuda/ptx", &["ptx"]).iter().map(|(f, text)| (f.replace(".ptx", ""), entries(text))).collect();
    assert_eq!(sources, ptx.keys().cloned().collect(), "cuda/*.cu and cuda/ptx/*.ptx");
    let in_ptx: BTreeSet<_> = ptx
        .iter()
        .flat_map(|(f, names)| names.iter().map(move |name| (name.clone(), format!("{f}.cu"))))
        .collect();
    let file = |measured: &Value| measured["file"].as_str().unwrap().to_string();
    let measured: BTreeSet<_> = resources().iter().map(|(name, m)| (name.clone(), file(m))).collect();
    assert_eq!(in_ptx, measured, "kernels of cuda/ptx/*.ptx and of cuda/resources.json");

    let code: String = files("src/gpu", &["rs"]).values().map(|text| without_comments(text)).collect();
    for (kernel, file) in &in_ptx {
        let named = [kernel.as_str(), base(kernel)].iter().any(|name| code.contains(&format!("\"{name}\"")));
        assert!(named, "nothing in src/gpu launches {kernel} of cuda/{file}");
    }
    for (module, name) in per_dtype(&code) {
        let kernels =
            ptx.get(&module).unwrap_or_else(|| panic!("src/gpu names {module}, there is no such file"));
        for kernel in [format!("{name}_bf16"), format!("{name}_f16")] {
            assert!(kernels.contains(&kernel), "src/gpu names {kernel}, cuda/{module}.cu has {kernels:?}");
        }
    }
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code).to_string() + "\n").collect()
}

/// File and name of every `per_dtype!("file")` and `per_dtype!("file", "name")`.
fn per_dtype(code: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for call in code.split("per_dtype!(").skip(1) {
        let arguments = call.split_once(')').map_or("", |(arguments, _)| arguments);
        let names: Vec<_> = arguments.split('"').skip(1).step_by(2).map(str::to_string).collect();
        if let (Some(module), Some(name)) = (names.first(), names.last()) {
            found.push((module.clone(), name.clone()));
        }
    }
    found
}

/// Name and bytes of every struct that bindgen made.
fn struct_sizes(args: &str) -> BTreeMap<String, usize> {
    let mut sizes = BTreeMap::new();
    let mut last = String::new();
    for line in args.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub struct ") {
            last = name.trim_end_matches(" {").to_string();
            sizes.insert(last.clone(), 0);
        } else if let Some((_, ty)) =
            line.strip_prefix("pub(crate) ").and_then(|field| field.split_once(": "))
        {
            *sizes.get_mut(&last).unwrap() += size(ty.trim_end_matches(','));
        }
    }
    sizes
}

fn size(ty: &str) -> usize {
    if let Some((element, n)) = ty.strip_prefix('[').and_then(|ty| ty.trim_end_matches(']').split_once("; "))
    {
        return size(element) * n.trim_end_matches("usize").parse::<usize>().unwrap();
    }
    match ty.rsplit("::").next().unwrap() {
        "Elements" | "ElementsOut" | "Floats" | "FloatsOut" | "Indices" | "IndicesOut" => 8,
        "c_longlong" | "c_ulonglong" | "u64" | "i64" | "f64" => 8,
        "c_int" | "c_uint" | "u32" | "i32" | "f32" => 4,
        other => panic!("src/gpu/args.rs: a type that this test does not know: {other}"),
    }
}

#[test]
fn arguments_fill_whole_words() {
    let sizes = struct_sizes(&read("src/gpu/args.rs"));
    let header = read("cuda/args.h");
    let names = header.lines().filter_map(|line| line.strip_prefix("struct ")?.split([' ', '{']).next());
    assert_eq!(
        names.collect::<BTreeSet<_>>(),
        sizes.keys().map(String::as_str).collect(),
        "args.h and args.rs"
    );
    for (name, size) in sizes {
        assert!(size > 0 && size % 8 == 0, "{name} has {size} bytes: add an `int reserved`");
        assert!(size <= MAX_ARGUMENT_BYTES, "{name} has {size} bytes");
    }
}

#[test]
fn instructions_are_written_in_one_place() {
    for (file, text) in files("cuda", &["cu", "cuh", "h"]) {
        let code = without_comments(&text);
        for line in code.lines().filter(|line| line.trim_start().starts_with("#include <")) {
            assert!(file == "primitives.cuh" && line.contains("<stdint.h>"), "cuda/{file}: {line}");
        }
        let words = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect::<Vec<_>>();
        let inline = words.iter().any(|word| ["asm", "__asm__"].contains(word));
        assert!(!inline || file == "primitives.cuh", "cuda/{file}: inline PTX belongs into primitives.cuh");
    }
}

const GOOD: &str = "// Purpose.\n//   y = x\n// x (T) f32 -> y (T) f32\n// Launch: T blocks.\n// Registers: at most 64. \
Static shared memory: 32 bytes. Dynamic shared memory: 0.\n// Bytes: reads 4 T,\n//   writes 4 T\n// Bank conflicts: none.\n\
// Accumulation: none.\n// Test: gpu_ops::norm\n#include \"device.cuh\"\n// Launch: not a header's\n";

#[test]
fn the_parser_takes_a_header() {
    let want = Header { registers: 64, static_shared: 32, tests: vec!["norm".to_string()] };
    assert_eq!(parse_header(GOOD).unwrap(), want);
    let two = parse_header(&GOOD.replace("::norm", "::norm, gpu_ops::rope")).unwrap();
    assert_eq!(two.tests, ["norm", "rope"]);
}

#[test]
fn the_parser_refuses_other_headers() {
    let changes = [
        ("// Purpose.", "//", "no purpose"),
        (" -> ", " to ", "inputs -> outputs"),
        ("// Launch: T blocks.\n", "", "out of order"),
        ("// Launch: T blocks.", "// Launch:", "nothing behind \"Launch"),
        ("at most 64", "64", "Registers: at most N"),
        ("at most 64", "at most some", "Registers: at most N"),
        ("32 bytes", "32", "Registers: at most N"),
        (" Dynamic shared memory: 0.", "", "Registers: at most N"),
        ("// Bytes: reads", "// Reads", "out of order"),
        ("// Bank conflicts: none.\n", "", "out of order"),
        ("// Accumulation: none.\n", "// Accumulation f32.\n", "out of order"),
        ("// Test: gpu_ops::norm\n", "", "no line \"Test: \""),
        ("gpu_ops::norm", "norm", "Test: gpu_ops::module"),
        ("// Bank conflicts: none.", "// Bank conflicts: none.\n// Bank conflicts: none.", "out of order"),
    ];
    for (from, to, why) in changes {
        let error = parse_header(&GOOD.replacen(from, to, 1)).expect_err(from);
        assert!(error.contains(why), "{from:?} -> {to:?}: {error}");
    }
}

#[test]
fn complaints_name_the_kernel() {
    let clean = r#"{"registers": 30, "spill_stores": 0, "spill_loads": 0, "stack": 0, "static_shared": 32, "hmma": 8,
        "ldgsts_128": 4, "local": 0}"#;
    let of = |sm_80: &str, sm_90a: &str| -> Value {
        serde_json::from_str(&format!(r#"{{"sm_80": {sm_80}, "sm_90a": {sm_90a}}}"#)).unwrap()
    };
    let header = parse_header(GOOD).unwrap();
    let complaints = |measured: &Value| complaints("linear_bf16", measured, &header);
    assert_eq!(complaints(&of(clean, clean)), [""; 0]);
    for (from, to) in [
        ("\"registers\": 30", "\"registers\": 65"),
        ("\"spill_stores\": 0", "\"spill_stores\": 4"),
        ("\"spill_loads\": 0", "\"spill_loads\": 4"),
        ("\"stack\": 0", "\"stack\": 8"),
        ("\"static_shared\": 32", "\"static_shared\": 48"),
    ] {
        let bad = clean.replace(from, to);
        assert_eq!(complaints(&of(&bad, clean)).len(), 1, "{to}");
        assert_eq!(complaints(&of(clean, &bad)).len(), 1, "{to}");
    }
    for (from, to) in [
        ("\"hmma\": 8", "\"hmma\": 0"),
        ("\"ldgsts_128\": 4", "\"ldgsts_128\": 0"),
        ("\"local\": 0", "\"local\": 1"),
    ] {
        assert_eq!(complaints(&of(&clean.replace(from, to), clean)).len(), 1, "{to}");
    }
}

#[test]
fn the_other_parsers() {
    let ptx = "// .entry no\n.visible .entry norm_bf16(\n\t.param .u64 x\n)\n.weak .entry plain (\n";
    assert_eq!(entries(ptx).into_iter().collect::<Vec<_>>(), ["norm_bf16", "plain"]);

    let code = without_comments(
        "/// `per_dtype!(\"no\")`\nconst A: X = per_dtype!(\"a\");\nper_dtype!(\n  \"b\",\n  \"c\",\n)",
    );
    let pairs = per_dtype(&code);
    let want = [("a", "a"), ("b", "c")].map(|(module, name)| (module.to_string(), name.to_string()));
    assert_eq!(pairs, want);

    let args = "type Floats = u64;\npub struct AArgs {\n  pub(crate) x: Floats,\n  pub(crate) n: ::std::os::raw::c_int,\n\
        pub(crate) k: [f32; 3usize],\n}\n";
    assert_eq!(struct_sizes(args), BTreeMap::from([("AArgs".to_string(), 24)]));

    let matrices =
        ["linear_bf16", "linear_in_f16", "gated_linear_bf16", "project_f16", "logits_bf16", "attention_f16"];
    let others =
        ["linear_gemv_bf16", "attention_decode_f16", "attention_combine_bf16", "cross_entropy", "norm_f16"];
    assert!(matrices.iter().all(|name| multiplies_matrices(name)));
    assert!(!others.iter().any(|name| multiplies_matrices(name)));
}
