//! A folded model on the emulated GPU: its sessions, and its weights in host memory.
#![cfg(target_os = "linux")]

use std::ptr::{null, null_mut};

use half::bf16;

use crate::{
    bindings::*,
    fold::{corrections, fold},
    gpu::{emulated, model_on_gpu, small},
    models::{evaluate, kept},
    support::*,
    weights::{names, read, tensor},
};

#[test]
fn a_fold_runs_and_gives_its_weights() {
    emulated("gpu_fold::a_fold_runs_and_gives_its_weights", || {
        let model = model_on_gpu();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/generate-llama");
        // SAFETY: living strings.
        let on_cpu = Owned::new(probeprune_model_free, |out| unsafe {
            probeprune_model_load(c(folder).as_ptr(), null(), out)
        });
        assert_eq!(names(&model), names(&on_cpu));
        for name in names(&model) {
            let [(shape, dtype, bytes), (of_cpu, _, floats)] =
                [&model, &on_cpu].map(|model| read(&tensor(model, &name)));
            assert_eq!(shape, of_cpu);
            let floats: Vec<f32> = bytemuck::pod_collect_to_vec(&floats);
            let expected: Vec<u8> = match dtype {
                (4, 16) => floats.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
                _ => floats.iter().flat_map(|x| x.to_le_bytes()).collect(),
            };
            assert_eq!(bytes, expected, "{name:?}");
            assert_eq!(dtype == (4, 16), shape.len() == 2, "matrices run in bfloat16: {name:?}");
        }

        let settings = probeprune_settings { method: PROBEPRUNE_METHOD_FOLD as i32, ..small() };
        let text: Vec<u32> = (0..12 * 8).map(|i| (i * 37 + i / 5) % 131).collect();
        let options = probeprune_calibrate_options { fold: 1, ..defaults(probeprune_calibrate_options_init) };
        // SAFETY: living handles and buffers.
        let (history, folded) = unsafe {
            let history = Owned::new(probeprune_calibration_free, |out| {
                probeprune_calibrate(model.0, text.as_ptr(), 12, 8, &options, out)
            });
            let folded = Owned::new(probeprune_model_free, |out| {
                probeprune_model_fold(model.0, &settings, history.0, None, null_mut(), out)
            });
            (history, folded)
        };
        // SAFETY: living handles and structs.
        let own = Owned::new(probeprune_session_free, |out| unsafe {
            probeprune_session_create(model.0, &settings, &limits(2, 8, 0), history.0, out)
        });
        let shared = session(&folded, &settings, limits(2, 8, 0));
        let plain = session(&folded, &defaults(probeprune_settings_init), limits(2, 8, 0));
        let losses = [&own, &shared, &plain].map(|session| evaluate(session, &text[..16], 2).to_bits());
        assert_eq!(losses, [losses[0]; 3]);

        let adapting =
            probeprune_settings { adapt: PROBEPRUNE_ADAPT_PROBE as i32, adapt_tokens: 4, ..settings };
        let corrected = session(&fold(&model, &adapting, &history), &adapting, limits(2, 8, 0));
        assert!(evaluate(&corrected, &text[..16], 2).is_finite());
        assert!(corrections(&corrected).adapting == 1 && corrections(&corrected).probed_share == 1.0);

        let mut shape = defaults(probeprune_layer_shape_init);
        // SAFETY: living handles and structs.
        ok(unsafe { probeprune_model_layer_shape(folded.0, 2, &mut shape) });
        assert_eq!(shape.channels as usize, kept(&shared, 2, PROBEPRUNE_BLOCK_MLP).len());
        let (size, ..) = read(&tensor(&folded, c"model.layers.2.mlp.up_proj.weight"));
        assert_eq!(size, [shape.channels as usize, 43]);
        let (size, dtype, _) = read(&tensor(&folded, c"model.layers.2.mlp.down_proj.bias"));
        assert_eq!((size, dtype), (vec![43], (2, 32)));
    });
}
