//! Any text is parsed, decoded and (with a bound on its steps) run, or refused; nothing panics.
//! `cargo +nightly fuzz run module kernels/ptx` from the crate's folder starts from the committed PTX.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ptx_emu::{Args, Device, Launch, Module, Settings};

fuzz_target!(|text: &str| {
    let Ok(module) = Module::parse(text) else { return };
    let settings = Settings { step_limit: 5_000, ..Settings::default() };
    for kernel in module.kernels() {
        let mut device = Device::new();
        let Ok(buffer) = device.alloc("buffer", 256) else { return };
        for args in [Args::new(), Args::new().arg(buffer)] {
            let _ = device.launch(&module, kernel, Launch::linear(1, 64, 1024), &args, &settings);
        }
    }
});
