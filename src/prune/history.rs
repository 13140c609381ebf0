//! How running energies are kept in memory: history of a 7B model in float32 would take a quarter of its weights' memory.

use super::settings::HistoryDtype;

/// Number format and resolution of history. The default is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLayout {
    /// Format of an entry.
    pub dtype: HistoryDtype,
    /// Slots that share a row, which holds their mean; 1 = exact.
    pub bucket: usize,
}

impl Default for HistoryLayout {
    fn default() -> Self {
        Self { dtype: HistoryDtype::F32, bucket: 1 }
    }
}

impl HistoryLayout {
    /// Rows for `slots` slots.
    pub fn rows(self, slots: usize) -> usize {
        slots.div_ceil(self.bucket)
    }

    /// 32-bit words of memory for (slots, width) energies.
    pub fn words(self, slots: usize, width: usize) -> usize {
        let entries = self.rows(slots).saturating_mul(width);
        match self.dtype {
            HistoryDtype::F32 => entries,
            HistoryDtype::F16 => entries.div_ceil(2),
        }
    }

    /// Energies (slots, width) as they are stored; the bits of two f16 entries make a word, the even one first.
    pub fn encode(self, energies: &[f32], width: usize) -> Vec<f32> {
        let means = energies.chunks(self.bucket * width).flat_map(|bucket| {
            let slots = (bucket.len() / width) as f32;
            (0..width).map(move |c| bucket[c..].iter().step_by(width).sum::<f32>() / slots)
        });
        match self.dtype {
            HistoryDtype::F32 => means.collect(),
            HistoryDtype::F16 => {
                let mut entries: Vec<half::f16> = means.map(to_f16).collect();
                entries.resize(entries.len().next_multiple_of(2), half::f16::ZERO);
                let word =
                    |pair: &[half::f16]| u32::from(pair[0].to_bits()) | u32::from(pair[1].to_bits()) << 16;
                entries.chunks_exact(2).map(|pair| f32::from_bits(word(pair))).collect()
            }
        }
    }
}

/// An energy as an f16 entry: its square root, because energies span more than f16's exponents do.
pub fn to_f16(energy: f32) -> half::f16 {
    half::f16::from_f32(energy.sqrt().min(65504.0))
}

/// The energy of an f16 entry.
pub fn from_f16(entry: half::f16) -> f32 {
    entry.to_f32().powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_the_mean_of_their_slots() {
        let layout = HistoryLayout { dtype: HistoryDtype::F32, bucket: 2 };
        // Three slots of two channels: the last row has one slot only.
        assert_eq!(layout.encode(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2), [2.0, 3.0, 5.0, 6.0]);
        assert_eq!(layout.words(3, 2), 4);
    }

    #[test]
    fn half_precision_keeps_the_range_of_energies() {
        let layout = HistoryLayout { dtype: HistoryDtype::F16, bucket: 1 };
        let energies = [1e-8f32, 0.0, 2.5, 3e8, 7.0];
        let words = layout.encode(&energies, 5);
        assert_eq!(words.len(), layout.words(1, 5));
        let entries = words.iter().flat_map(|word| {
            let bits = word.to_bits();
            [bits as u16, (bits >> 16) as u16].map(|bits| from_f16(half::f16::from_bits(bits)))
        });
        for (got, want) in entries.zip(energies) {
            assert!((got - want).abs() <= want * 1e-3, "{got} for {want}");
        }
    }
}
