//! Drivers and GPUs that the emulated driver pretends to be: old ones, poor ones, none.

use super::*;
use crate::{
    device::TEST_DEVICE,
    emulated_cuda::{functions, on_driver_without},
};

/// Runs `body` of the test called `name` in a child process on the emulated driver with these settings, whatever GPU
/// there is. Returns what it wrote to standard error.
fn on_driver(name: &str, settings: &[(&str, &str)], body: impl FnOnce()) -> Option<String> {
    if env::var_os(CHILD).is_some() {
        body();
        return None;
    }
    Some(passes(on_emulated_driver(&mut child(&format!("emulated::{name}")), settings)))
}

fn refused(name: &str, settings: &[(&str, &str)], ordinal: usize, parts: &[&str]) {
    on_driver(name, settings, || assert_error(Cuda::new(ordinal), parts));
}

/// Whether this build has machine code for what the emulated GPU is unless told otherwise.
fn has_machine_code() -> bool {
    cuda::build().contains("sm_80")
}

#[test]
fn no_gpu() {
    refused(
        "no_gpu",
        &[("DEVICES", "0")],
        0,
        &["cuda", "a GPU", "none", "CUDA_VISIBLE_DEVICES", "`device` cpu"],
    );
}

#[test]
fn no_such_gpu() {
    let parts = ["cuda:2", "cuda:0 (Emulated GPU), cuda:1 (Emulated GPU)", "no such device"];
    refused("no_such_gpu", &[("DEVICES", "2")], 2, &parts);
}

#[test]
fn an_old_gpu() {
    let parts = ["cuda:0 (Emulated GPU)", "compute capability", "8.0 or newer", "7.5", "`device` cpu"];
    refused("an_old_gpu", &[("CAPABILITY", "7.5")], 0, &parts);
}

#[test]
fn an_old_driver() {
    let parts = ["driver", "CUDA 11.4 or newer", "CUDA 11.3 without cuGraphInstantiateWithFlags", "Update"];
    refused("an_old_driver", &[("VERSION", "11030")], 0, &parts);
}

#[test]
fn the_oldest_driver_that_will_do() {
    on_driver("the_oldest_driver_that_will_do", &[("VERSION", "11040")], || {
        let gpu = gpu();
        assert!(gpu.driver().description().contains("driver for CUDA 11.4"));
        direct_and_replayed(&gpu);
        events_are_apart(&gpu);
    });
}

/// What the emulated driver has for others than this library.
const NOT_NEEDED: [&str; 5] = [
    "cuEventElapsedTime_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoH_v2",
    "cuMemcpyHtoD_v2",
    "cuModuleLoadData",
];

#[test]
fn a_driver_without_a_function_that_is_needed() {
    const HIDDEN: &str = "PROBEPRUNE_TEST_HIDDEN";
    if env::var_os(CHILD).is_some() {
        let hidden = env::var(HIDDEN).unwrap();
        if NOT_NEEDED.contains(&&*hidden) {
            let gpu = gpu();
            direct_and_replayed(&gpu);
            events_are_apart(&gpu);
        } else {
            let without = format!("without {hidden}");
            assert_error(Cuda::new(0), &["driver", "CUDA 11.4 or newer", &without, "Update", "`device` cpu"]);
        }
        return;
    }
    for (hidden, _) in functions() {
        let mut child = child("emulated::a_driver_without_a_function_that_is_needed");
        passes(on_driver_without(child.env(HIDDEN, hidden), &[], &[hidden]));
    }
}

#[test]
fn a_driver_that_refuses_machine_code() {
    let settings = [("DEVICES", "2"), ("REFUSES", "machine code")];
    let said = on_driver("a_driver_that_refuses_machine_code", &settings, || {
        for ordinal in [0, 1, 0, 1] {
            let cuda = Cuda::new(ordinal).unwrap();
            let loading = cuda.loading();
            assert!(loading.from_ptx == loading.modules && loading.to_string().ends_with(" s from PTX"));
            direct_and_replayed(&Gpu::new(cuda, GpuDtype::Bf16));
        }
    });
    let Some(said) = said else { return };
    let notes: Vec<_> = said.lines().filter(|line| line.starts_with("note: ")).collect();
    if has_machine_code() {
        assert_eq!(notes.len(), 2, "one for each GPU: {said}");
        for (i, note) in notes.iter().enumerate() {
            let gpu = format!("note: cuda:{i} (Emulated GPU): ");
            assert!(note.starts_with(&gpu) && note.contains("CUDA_ERROR_NO_BINARY_FOR_GPU"), "{note}");
        }
    } else {
        assert!(notes.is_empty(), "nothing was refused: {said}");
    }
}

#[test]
fn a_driver_that_takes_machine_code() {
    let said = on_driver("a_driver_that_takes_machine_code", &[], || {
        let loading = Cuda::new(0).unwrap().loading();
        assert_eq!(loading.from_ptx, if has_machine_code() { 0 } else { loading.modules });
    });
    assert!(said.is_none_or(|said| !said.contains("note: ")));
}

#[test]
fn a_driver_that_refuses_everything() {
    let settings = [("REFUSES", "machine code,PTX")];
    on_driver("a_driver_that_refuses_everything", &settings, || {
        let ptx =
            ["cuda:0 (Emulated GPU)", "loading kernels", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "Update"];
        assert_error(Cuda::new(0), &ptx);
        if has_machine_code() {
            let both = ["sm_80", "CUDA_ERROR_NO_BINARY_FOR_GPU", "for the machine code", "for the PTX"];
            assert_error(Cuda::new(0), &both);
        }
    });
}

#[test]
fn a_gpu_newer_than_any_machine_code() {
    let settings = [("VERSION", "12020"), ("CAPABILITY", "15.0")];
    let said = on_driver("a_gpu_newer_than_any_machine_code", &settings, || {
        let gpu = gpu();
        assert_eq!(gpu.driver().loading().from_ptx, gpu.driver().loading().modules);
        direct_and_replayed(&gpu);
    });
    assert!(said.is_none_or(|said| !said.contains("note: ")), "nothing was refused");
}

#[test]
fn without_a_gpu_the_real_gpus_tests_fail() {
    let tried = |devices: &str| {
        let mut command = child("graphs_do_what_launches_do");
        command.env_remove(CHILD).env(TEST_DEVICE, "cuda");
        let output = on_emulated_driver(&mut command, &[("DEVICES", devices)]).output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.success(), said.concat())
    };
    let (passed, said) = tried("0");
    assert!(!passed && said.contains("0 passed; 1 failed") && said.contains("a GPU"), "{said}");
    let (passed, said) = tried("1");
    assert!(passed && said.contains("1 passed"), "a driver in a real one's place: {said}");
    if !cuda::driver_is_installed() {
        for name in ["graphs_do_what_launches_do", "without_a_driver_the_error_says_so"] {
            let output = child(name).env_remove(CHILD).env(TEST_DEVICE, "cuda").output().unwrap();
            assert!(!output.status.success(), "{name} passes without a driver");
        }
    }
}

#[test]
fn the_second_gpu() {
    on_driver("the_second_gpu", &[("DEVICES", "2"), ("CAPABILITY", "9.0")], || {
        let cuda = Cuda::new(1).unwrap();
        assert_eq!((cuda.device().ordinal, cuda.device().capability), (1, (9, 0)));
        let first = Gpu::new(Cuda::new(0).unwrap(), GpuDtype::Bf16);
        let memory = cuda.alloc(64).unwrap();
        // SAFETY: what is refused is not used.
        let wrong = unsafe { first.borrow_activations(cuda.address(&memory), 4) };
        assert_error(wrong, &["borrowed memory", "an address in cuda:0", "in cuda:1"]);
    });
}

#[test]
fn a_full_gpu() {
    on_driver("a_full_gpu", &[("MEMORY", "1000")], || {
        let gpu = gpu();
        let held = gpu.statistics(200).unwrap();
        assert_error(gpu.statistics(51), &["204 bytes for a buffer", "200 bytes free of 1000"]);
        drop(held);
        gpu.statistics(51).unwrap();
    });
}

#[test]
fn an_event_is_awaited_while_another_thread_captures() {
    on_driver("an_event_is_awaited_while_another_thread_captures", &[], || {
        let cuda = Cuda::new(0).unwrap();
        let memory = cuda.alloc(4).unwrap();
        // The driver goes through its streams in any order: of so many, a captured one comes before the one with the event.
        let captured = [(); 8].map(|()| stream::create(StreamKind::NonBlocking).unwrap());
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: these are new streams, which nothing else uses.
        captured.iter().for_each(|&stream| unsafe { stream::begin_capture(stream, mode).unwrap() });
        std::thread::scope(|scope| {
            // More than there are buffers for: later ones wait for the events of earlier ones.
            scope.spawn(|| {
                (0..64u32).for_each(|i| cuda.write(cuda.address(&memory), &i.to_le_bytes()).unwrap())
            });
        });
        for stream in captured {
            // SAFETY: each capture ends once, its graph and its stream are destroyed once.
            unsafe {
                graph::destroy(stream::end_capture(stream).unwrap()).unwrap();
                stream::destroy(stream).unwrap();
            }
        }
        let mut last = [0; 4];
        cuda.read(cuda.address(&memory), &mut last).unwrap();
        assert_eq!(u32::from_le_bytes(last), 63);
    });
}
