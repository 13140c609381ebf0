//! Embeds the GPU kernels (cuda/*.cu): always the committed PTX (cuda/ptx), which the driver compiles when it loads them,
//! and, where there is an nvcc, a fatbin of each, with machine code that needs no compiling. The PTX stays outside the
//! fatbins: what newer ones hold is compressed in a way that older drivers cannot read. `PROBEPRUNE_CUDA_ARCH` names what
//! a fatbin holds: `80` and `90a` are machine code, `compute_90` is PTX. `PROBEPRUNE_NO_NVCC=1` makes none even where
//! there is an nvcc.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::Mutex,
    thread,
    time::SystemTime,
};

const DEFAULT_TARGETS: &str = "80,90a";
const FOLDERS: [&str; 3] = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"];
const SWITCHES: [&str; 3] = ["NVCC", "PROBEPRUNE_CUDA_ARCH", "PROBEPRUNE_NO_NVCC"];

fn main() {
    println!("cargo::rerun-if-changed=cuda");
    for name in FOLDERS.iter().chain(&SWITCHES) {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(variable("OUT_DIR").expect("cargo sets OUT_DIR")).join("kernels");
    fs::create_dir_all(&out).expect("OUT_DIR can be written");
    let wanted = variable("PROBEPRUNE_CUDA_ARCH");
    let nvcc = if variable("PROBEPRUNE_NO_NVCC").is_some() { None } else { find_nvcc() };
    let fatbins = match (nvcc, wanted) {
        (Some(nvcc), wanted) => Some(compile(&nvcc, wanted.unwrap_or(DEFAULT_TARGETS.to_string()), &out)),
        (None, Some(_)) => fail("PROBEPRUNE_CUDA_ARCH is set, but there is no nvcc: set CUDA_HOME or NVCC"),
        (None, None) => None,
    };
    let mut oldest_driver = 0;
    let module = |path: PathBuf| {
        let (name, text) = (stem(&path), fs::read_to_string(&path).expect("committed PTX is text"));
        oldest_driver = oldest_driver.max(oldest_driver_for(&text));
        let kernels: Vec<_> =
            text.split(".entry ").skip(1).filter_map(|entry| entry.split('(').next()).collect();
        let image = |extension: &str| {
            format!("&Aligned(*include_bytes!({:?}))", out.join(format!("{name}.{extension}")))
        };
        let fatbin =
            if fatbins.is_some() { format!("Some({})", image("fatbin")) } else { "None".to_string() };
        let entry = format!(
            "    Image {{ name: {name:?}, kernels: &{kernels:?}, fatbin: {fatbin}, ptx: {} }},\n",
            image("ptx")
        );
        // The driver wants a NUL at its end.
        fs::write(out.join(format!("{name}.ptx")), text + "\0").expect("OUT_DIR can be written");
        entry
    };
    let modules: String = files("cuda/ptx", "ptx").into_iter().map(module).collect();
    let table = format!(
        "/// What fatbins were compiled for, and by which CUDA version, as 1000 · major + 10 · minor.\n\
         pub(super) const FATBINS: Option<(&str, u32)> = {fatbins:?};\n\
         /// The CUDA version of the oldest driver that takes the PTX.\n\
         pub(super) const PTX_DRIVER: u32 = {oldest_driver};\n\
         /// Every file of cuda/.\n\
         static IMAGES: &[Image] = &[\n{modules}];\n"
    );
    fs::write(out.with_extension("rs"), table).expect("OUT_DIR can be written");
}

/// Ends the build with a message.
fn fail(message: &str) -> ! {
    message.lines().for_each(|line| println!("cargo::error={line}"));
    process::exit(1)
}

/// An environment variable that is set to something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn find_nvcc() -> Option<PathBuf> {
    if let Some(nvcc) = variable("NVCC") {
        return Some(nvcc.into());
    }
    let program = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let toolkits = FOLDERS.iter().filter_map(|name| variable(name)).map(PathBuf::from);
    let own = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join(".cuda/nvidia/cu13");
    let on_path: Vec<PathBuf> = env::split_paths(&variable("PATH").unwrap_or_default()).collect();
    let folders = toolkits.chain([own]).map(|toolkit| toolkit.join("bin"));
    let folders = folders.chain(on_path).chain(["/usr/local/cuda/bin".into()]);
    folders.map(|folder| folder.join(&program)).find(|nvcc| nvcc.is_file())
}

/// Files of `folder` with this extension, sorted by name.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let paths = entries.map(|entry| entry.expect("a folder can be read").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    paths
}

fn stem(path: &Path) -> String {
    path.file_stem().expect("it has an extension").to_string_lossy().into_owned()
}

/// "13.0" as 1000 · major + 10 · minor.
fn number(version: &str) -> u32 {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let number = |text: &str| text.trim().parse::<u32>().expect("versions are numbers");
    1000 * number(major) + 10 * number(minor)
}

/// The CUDA version of the first driver that takes PTX of this text's `.version`.
fn oldest_driver_for(ptx: &str) -> u32 {
    let version = ptx.lines().find_map(|line| line.strip_prefix(".version ")).expect("PTX has a version");
    // PTX 7.0 came with CUDA 11.0, and so on in step, but for CUDA 12.6, which brought none.
    match 4000 + number(version) {
        release @ 12_060..13_000 => release + 10,
        release => release,
    }
}

/// A fatbin of every source, as many at a time as there are CPUs. What is newer than its sources stays. Returns what
/// they are for, and the compiler's version.
fn compile(nvcc: &Path, targets: String, out: &Path) -> (String, u32) {
    let run = |command: &mut Command| {
        command.output().unwrap_or_else(|error| fail(&format!("{}: {error}", nvcc.display())))
    };
    let version = run(Command::new(nvcc).arg("--version")).stdout;
    let version = String::from_utf8_lossy(&version).into_owned();
    let gencode = targets.split(',').map(str::trim).map(|target| match target.strip_prefix("compute_") {
        Some(ptx) => format!("-gencode=arch=compute_{ptx},code=compute_{ptx}"),
        None => format!("-gencode=arch=compute_{target},code=sm_{target}"),
    });
    let flags: Vec<String> =
        ["-std=c++17", "-lineinfo", "-fatbin"].map(String::from).into_iter().chain(gencode).collect();
    let stamp = format!("{version}{flags:?}");
    let stamp_file = out.join("stamp");
    if fs::read_to_string(&stamp_file).is_ok_and(|old| old != stamp) {
        fs::remove_dir_all(out).and_then(|()| fs::create_dir(out)).expect("OUT_DIR can be written");
    }
    fs::write(stamp_file, stamp).expect("OUT_DIR can be written");
    let modified = |path: &Path| -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
    let headers = ["h", "cuh"].iter().flat_map(|extension| files("cuda", extension));
    let headers = headers.filter_map(|path| modified(&path)).max();
    let sources = files("cuda", "cu");
    let image = |source: &Path| out.join(format!("{}.fatbin", stem(source)));
    let fresh = |source: &PathBuf| modified(&image(source)) > modified(source).max(headers);
    let stale = Mutex::new(sources.iter().filter(|source| !fresh(source)).collect::<Vec<_>>());
    let work = || {
        while let Some(source) = { stale.lock().unwrap().pop() } {
            let unfinished = image(source).with_extension("tmp");
            let ran = run(Command::new(nvcc).args(&flags).arg(source).arg("-o").arg(&unfinished));
            let said =
                String::from_utf8_lossy(&ran.stderr).into_owned() + &String::from_utf8_lossy(&ran.stdout);
            if !ran.status.success() {
                fail(&format!("{} cannot compile {}:\n{said}", nvcc.display(), source.display()));
            }
            fs::rename(unfinished, image(source)).expect("OUT_DIR can be written");
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    let release = version.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    (targets, number(release.unwrap_or_else(|| fail(&format!("{} names no release", nvcc.display())))))
}
