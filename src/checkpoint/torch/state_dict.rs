//! A state dict's tensors, from the description that a pickle gives.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::{
    Refusal,
    pickle::{Global, Object, Objects, Place},
};
use crate::error::printable;

/// PyTorch's own limit.
const MAX_DIMENSIONS: usize = 64;

/// Where a tensor's elements lie in its storage. Sizes and strides are in elements; every element is inside, and there are
/// at most as many as the storage has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The file with the storage, after `data/`.
    pub(super) storage: String,
    /// Elements of the storage.
    pub(super) len: usize,
    pub(super) dtype: Dtype,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// The tensors of a pickled state dict, by name.
pub(super) fn layouts(objects: &Objects) -> Result<BTreeMap<String, Layout>, Refusal> {
    let Object::Dict(entries) = &objects.all[objects.root] else {
        return Err(Refusal::new("data.pkl", "a dict of names and tensors", "another object"));
    };
    if let Some(name) = inner_state_dict(objects, entries) {
        let got = "a dict of tensors, as training checkpoints have";
        let load = format!("torch.load(FILE, weights_only=True)[{}]", printable(name));
        return Err(Refusal::new(format!("entry {}", printable(name)), "a tensor", got).loaded_by(load));
    }
    let mut found = BTreeMap::new();
    for &(key, value) in entries {
        let Object::Text(name) = objects.all[key] else {
            return Err(Refusal::new("data.pkl", "names as keys", "another key"));
        };
        let what = format!("entry {}", printable(name));
        let layout = match &objects.all[value] {
            Object::Call(function, arguments) => layout(objects, *function, *arguments, &what)?,
            _ => return Err(Refusal::new(what, "a tensor", "another object")),
        };
        if found.insert(name.to_string(), layout).is_some() {
            return Err(Refusal::new(what, "every name once", "this name twice"));
        }
    }
    if found.is_empty() {
        return Err(Refusal::new("data.pkl", "at least one tensor", "none"));
    }
    Ok(found)
}

/// The key of an entry that is a dict with tensors of its own.
fn inner_state_dict<'a>(objects: &Objects<'a>, entries: &[(Place, Place)]) -> Option<&'a str> {
    let is_tensor = |place: Place| matches!(objects.all[place], Object::Call(..));
    entries.iter().find_map(|&(key, value)| match (&objects.all[key], &objects.all[value]) {
        (Object::Text(name), Object::Dict(inner)) if inner.iter().any(|&(_, value)| is_tensor(value)) => {
            Some(*name)
        }
        _ => None,
    })
}

fn layout(objects: &Objects, function: Global, arguments: Place, what: &str) -> Result<Layout, Refusal> {
    let odd = |expected: &str, got: String| Refusal::new(what, expected, got);
    let tuple = |place: Place| match &objects.all[place] {
        Object::Tuple(parts) => Ok(parts.as_slice()),
        _ => Err(odd("a tuple", "another object".into())),
    };
    let arguments = match (function, tuple(arguments)?) {
        (Global::RebuildParameter, &[data, _, _]) => match objects.all[data] {
            Object::Call(Global::RebuildTensor, arguments) => tuple(arguments)?,
            _ => return Err(odd("a parameter of a tensor", "another object".into())),
        },
        (_, arguments) => arguments,
    };
    let &[storage, offset, shape, strides, _, _] = arguments else {
        return Err(odd("a plain tensor", format!("one of {} properties", arguments.len())));
    };
    let Object::Persistent(storage) = objects.all[storage] else {
        return Err(odd("a tensor with a storage", "another object".into()));
    };
    let size = |place: Place| match objects.all[place] {
        Object::Int(size) => usize::try_from(size).map_err(|_| odd("sizes from 0", size.to_string())),
        _ => Err(odd("sizes that are whole numbers", "another object".into())),
    };
    let (dtype, storage, len) = match tuple(storage)? {
        &[tag, class, key, _device, len] => match (&objects.all[tag], &objects.all[class], &objects.all[key])
        {
            (Object::Text("storage"), Object::Global(Global::Storage(dtype)), Object::Text(key)) => {
                (*dtype, key.to_string(), size(len)?)
            }
            _ => return Err(odd("a storage of numbers", "another object".into())),
        },
        _ => return Err(odd("a storage", "another object".into())),
    };
    let sizes = |place: Place| tuple(place)?.iter().map(|&place| size(place)).collect::<Result<Vec<_>, _>>();
    let layout =
        Layout { storage, len, dtype, offset: size(offset)?, shape: sizes(shape)?, strides: sizes(strides)? };
    if layout.strides.len() != layout.shape.len() || layout.shape.len() > MAX_DIMENSIONS {
        let got = format!("{} sizes and {} strides", layout.shape.len(), layout.strides.len());
        return Err(odd("as many strides as sizes, at most 64", got));
    }
    if !layout.fits() {
        let Layout { offset, shape, strides, len, .. } = &layout;
        let got = format!("shape {shape:?} with strides {strides:?} from element {offset}");
        return Err(odd(&format!("elements inside a storage of {len}, each once"), got));
    }
    Ok(layout)
}

impl Layout {
    fn fits(&self) -> bool {
        let elements = self.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size.max(1)));
        if elements.is_none_or(|elements| elements.checked_mul(8).is_none()) {
            return false;
        }
        if self.shape.contains(&0) {
            return true;
        }
        let steps =
            self.shape.iter().zip(&self.strides).map(|(size, stride)| (size - 1).checked_mul(*stride));
        let last = steps.into_iter().try_fold(self.offset, |sum, step| sum.checked_add(step?));
        last.is_some_and(|last| last < self.len) && elements.is_some_and(|elements| elements <= self.len)
    }

    /// Elements of the tensor.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the elements lie in row-major order without gaps.
    pub(super) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= size;
            fits
        })
    }
}
