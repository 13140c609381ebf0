//! Folded models: making and exporting them.

use std::{
    ffi::{c_char, c_void},
    path::Path,
};

use super::{
    check::{self, Out},
    handle::{self, Handle},
    model::{History, LoadedModel, Model, report, with_model},
    settings::MethodSettings,
    status::call,
    structs::Progress,
};

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_model_fold(
    model: *const Model,
    settings: *const MethodSettings,
    calibration: *const History,
    progress: Progress,
    user: *mut c_void,
    out: *mut *mut Model,
) -> i32 {
    // SAFETY: the header requires `model` and `calibration` to be null or not freed, `settings` to be null or readable for
    // its `struct_size`, `skip_layers` to have `skip_layer_count` entries, and `out` to be null or writable.
    call(|| unsafe {
        with_model(model, |original| {
            let layers = original.model.config().num_hidden_layers;
            let settings = check::versioned(settings, "settings")?.settings(layers)?;
            let out = Out::new(out, "out")?;
            let mut progress = |done| report(progress, user, done, layers);
            let folded = handle::with(calibration, "calibration", |calibration| {
                Ok(original.model.fold(settings, calibration, &mut progress)?)
            })?;
            let folded = LoadedModel::new(folded, original.source.clone(), original.file_bytes);
            check::give(out, Handle::new(folded));
            Ok(())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_model_export(
    model: *const Model,
    folder: *const c_char,
    needs_code: *mut i32,
) -> i32 {
    // SAFETY: the header requires `model` to be null or not freed, `folder` to be null or NUL-terminated, and `needs_code`
    // to be null or writable.
    call(|| unsafe {
        with_model(model, |model| {
            let folder = Path::new(check::text(folder, "folder")?);
            let needs_code =
                if needs_code.is_null() { None } else { Some(Out::new(needs_code, "needs_code")?) };
            let needed = model.model.export(&model.source, folder)?;
            if let Some(out) = needs_code {
                out.write(needed.into());
            }
            Ok(())
        })
    })
}
