//! Models of both backends behind one trait object, folded ones among them.

use std::{path::Path, sync::Arc};

use super::place::{AnySession, Place};
use crate::{
    checkpoint::{Tensor, Tensors},
    config::{LayerShape, ModelConfig},
    error::{Error, Result},
    export::export,
    model::{Model, fold::Fold},
    prune::{
        calibration::Calibration,
        settings::{AdaptSettings, Method, Prefill, Settings},
    },
    session::{CalibrationOptions, Limits, Session, calibrate},
    source::ModelSource,
};

/// A model on some device.
pub(super) trait AnyModel: Send + Sync {
    fn config(&self) -> &ModelConfig;
    fn fingerprint(&self) -> &str;
    /// The fingerprint of the model that was folded, or its own.
    fn original(&self) -> &str;
    fn is_broken(&self) -> bool;
    fn layer_shape(&self, layer: usize) -> &LayerShape;
    fn tensor_names(&self) -> Vec<String>;
    fn tensor(&self, name: &str) -> Result<Option<Tensor>>;
    fn calibrate(
        &self,
        tokens: &[u32],
        options: CalibrationOptions,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Calibration>;
    fn session(
        &self,
        settings: Settings,
        limits: Limits,
        calibration: Option<&Calibration>,
    ) -> Result<Box<dyn AnySession>>;
    fn fold(
        &self,
        settings: Settings,
        calibration: &Calibration,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Box<dyn AnyModel>>;
    /// Writes a folded model, whose original is at `source`. Returns whether it needs a modelling file.
    fn export(&self, source: &ModelSource, out: &Path) -> Result<bool>;
}

/// See [`AnyModel`].
pub(super) struct Loaded<B: Place> {
    model: Arc<Model<B>>,
    /// What it was made by, if it is a folded model.
    folded: Option<Folded<B>>,
}

struct Folded<B: Place> {
    fold: Arc<Fold<B>>,
    settings: Settings,
    /// The original's fingerprint.
    original: String,
}

impl<B: Place> Loaded<B> {
    pub(super) fn new(model: Model<B>) -> Self {
        Self { model: Arc::new(model), folded: None }
    }
}

impl<B: Place> AnyModel for Loaded<B> {
    fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    fn fingerprint(&self) -> &str {
        &self.model.fingerprint
    }

    fn original(&self) -> &str {
        self.folded.as_ref().map_or(&self.model.fingerprint, |folded| &folded.original)
    }

    fn is_broken(&self) -> bool {
        self.model.backend.is_broken()
    }

    fn layer_shape(&self, layer: usize) -> &LayerShape {
        &self.model.weights.layers[layer].shape
    }

    fn tensor_names(&self) -> Vec<String> {
        self.model.tensor_names()
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        self.model.tensor(name)
    }

    fn calibrate(
        &self,
        tokens: &[u32],
        options: CalibrationOptions,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Calibration> {
        calibrate(&self.model, tokens, options, progress)
    }

    fn session(
        &self,
        settings: Settings,
        limits: Limits,
        calibration: Option<&Calibration>,
    ) -> Result<Box<dyn AnySession>> {
        let session = match &self.folded {
            Some(folded) if matches!(settings.method, Method::None | Method::Fold) => {
                folded.session(settings, limits, calibration)
            }
            _ => Session::new(Arc::clone(&self.model), settings, limits, calibration),
        };
        Ok(Box::new(session?))
    }

    fn fold(
        &self,
        settings: Settings,
        calibration: &Calibration,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Box<dyn AnyModel>> {
        settings.check()?;
        let fold = Arc::new(Fold::new(&self.model, &settings, calibration, progress)?);
        let model = Arc::clone(&fold.model);
        let folded = Some(Folded { fold, settings, original: self.model.fingerprint.clone() });
        Ok(Box::new(Self { model, folded }))
    }

    fn export(&self, source: &ModelSource, out: &Path) -> Result<bool> {
        let Some(Folded { fold, settings, .. }) = &self.folded else {
            let help = "Fold it first: probeprune_model_fold.";
            return Err(Error::argument("model", "a folded one", "one as it was loaded", help));
        };
        export(fold, source, settings, out)
    }
}

impl<B: Place> Folded<B> {
    /// A session with the settings that it was folded with, or with method none, which leaves the fold as it is.
    fn session(
        &self,
        mut settings: Settings,
        limits: Limits,
        calibration: Option<&Calibration>,
    ) -> Result<Session<B>> {
        match settings.method {
            Method::Fold => self.check(&settings)?,
            _ => {
                settings.adapt = AdaptSettings::default();
                settings.prefill = Prefill::Pruned;
            }
        }
        if let Some(calibration) = calibration {
            calibration.check_model(&self.original)?;
        }
        let learned = calibration.and_then(|calibration| calibration.corrections.as_ref());
        Session::of_fold(Arc::clone(&self.fold), settings, limits, learned)
    }

    /// Refuses settings that would have given another fold.
    fn check(&self, settings: &Settings) -> Result<()> {
        let layers = |settings: &Settings| {
            let mut layers = settings.skip_layers.clone();
            layers.sort_unstable();
            format!("{layers:?}")
        };
        let own = &self.settings;
        for (name, [expected, got]) in [
            ("prune_ratio", [own, settings].map(|settings| settings.prune_ratio.to_string())),
            ("fold_choice", [own, settings].map(|settings| settings.fold_choice.to_string())),
            ("skip_layers", [own, settings].map(layers)),
            ("round_channels", [own, settings].map(|settings| settings.round_channels.to_string())),
        ] {
            if expected != got {
                let expected = format!("{expected}, as the model was folded with");
                return Err(Error::argument(name, expected, got, "Fold the original with these settings."));
            }
        }
        Ok(())
    }
}
