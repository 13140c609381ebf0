//! `keep_kv_heads`: the key/value heads of kept query heads.

use probeprune::{
    Result,
    backend::{Backend, KeepKvHeadsOperands, KeptSet},
};

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic, near::Stored, outputs, product::Kept, source::Source,
};

#[derive(Clone, Debug)]
pub struct KvCase {
    pub heads: usize,
    pub gqa_group: usize,
    /// Kept query heads.
    pub kept: usize,
}

const UNTOUCHED: u32 = 123_456;

impl KvCase {
    fn kept_heads(&self, source: Source<'_>) -> Vec<u32> {
        source.stream(3).kept(self.heads, self.kept)
    }
}

impl Case for KvCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let kept = Kept { indices: self.kept_heads(source), block_width: 1 };
        let (heads, gqa_group, all) = (backend.put_kept(&kept, self.heads)?, self.gqa_group, self.heads);
        let of = self.heads / self.gqa_group;
        let indices = backend.put_indices(&vec![7; of])?;
        let mut kv_heads = KeptSet { indices, len: self.kept.min(of), of, block_width: 1 };
        let mut kv_head_of = backend.put_indices(&vec![UNTOUCHED; all])?;
        Ok(Box::new(move |backend, read| {
            backend.keep_kv_heads(KeepKvHeadsOperands {
                heads: &heads,
                gqa_group,
                kv_heads: &mut kv_heads,
                kv_head_of: &mut kv_head_of,
            });
            outputs(read, || {
                Ok(vec![
                    backend.read_indices(&kv_heads.indices, of)?,
                    backend.read_indices(&kv_head_of, all)?,
                ])
            })
        }))
    }

    fn expected(&self, source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let heads = self.kept_heads(source);
        let mut used: Vec<u32> = heads.iter().map(|head| head / self.gqa_group as u32).collect();
        let of_head = used.clone();
        used.dedup();
        let place = |kv: &u32| used.iter().position(|used| used == kv).unwrap() as u32;
        let mut kv_head_of: Vec<u32> = of_head.iter().map(place).collect();
        kv_head_of.resize(self.heads, UNTOUCHED);
        used.resize(self.heads / self.gqa_group, u32::MAX);
        vec![Expected::Indices(used), Expected::Indices(kv_head_of)]
    }

    fn bytes(&self, _element: ElementBytes) -> usize {
        4 * (2 * self.kept + self.kept.min(self.heads / self.gqa_group))
    }

    fn traffic(&self) -> Traffic {
        Traffic::new("keep_kv_heads", 4 * self.kept, 2 * 4 * self.kept)
    }
}
