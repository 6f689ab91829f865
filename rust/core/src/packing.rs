//! Texts that are much like each other, kept small.
//!
//! The messages for one task differ in a few fields. A [`Packing`] keeps one of them as the
//! reference and the others as what LZ4 makes of them with the reference for a dictionary: a
//! fifth of their size, at about a microsecond each way.

use std::fmt;

use lz4_flex::block;

/// Bytes of a reference that are used. Longer ones would only cost time.
const REFERENCE_LIMIT: usize = 8 * 1024;

/// Packs byte strings by their likeness to one of them. The [module](self) describes it.
#[derive(Debug)]
pub struct Packing {
    reference: Box<[u8]>,
}

/// These bytes do not come from the same packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackError;

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not packed by this packing")
    }
}

impl std::error::Error for UnpackError {}

impl Packing {
    /// Creates a packing for byte strings that are much like `reference`.
    #[must_use]
    pub fn new(reference: &[u8]) -> Self {
        // LZ4 looks back from the end of its dictionary.
        let start = reference.len().saturating_sub(REFERENCE_LIMIT);
        Self {
            reference: reference[start..].into(),
        }
    }

    /// Returns `data` in fewer bytes, or in a few more if it is like nothing.
    #[must_use]
    pub fn pack(&self, data: &[u8]) -> Vec<u8> {
        block::compress_prepend_size_with_dict(data, &self.reference)
    }

    /// Returns what was packed.
    ///
    /// # Errors
    ///
    /// [`UnpackError`] for bytes that [`pack`](Self::pack) has not made.
    pub fn unpack(&self, packed: &[u8]) -> Result<Vec<u8>, UnpackError> {
        // The length comes first. One that no input can have would be allocated before LZ4
        // finds out: a byte of it stands for 255 at most.
        let length = packed.first_chunk::<4>().ok_or(UnpackError)?;
        if u32::from_le_bytes(*length) as usize > packed.len().saturating_mul(255) {
            return Err(UnpackError);
        }
        block::decompress_size_prepended_with_dict(packed, &self.reference).map_err(|_| UnpackError)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_like_the_reference_takes_a_fraction() {
        let text = |id: u32| {
            format!(
                r#"{{"lang": "py", "task": "proj.add", "id": "{id:08x}-afa3-4130-bd8a-063a9013384c", "eta": "2026-11-21T14:28:06.{id:06}+00:00", "root_id": "{id:08x}-afa3-4130-bd8a-063a9013384c", "argsrepr": "({id},)", "origin": "gen9965@host"}}"#
            )
        };
        let packing = Packing::new(text(7).as_bytes());
        let other = text(7_654_321);
        let packed = packing.pack(other.as_bytes());
        assert!(packed.len() * 3 < other.len(), "{} bytes", packed.len());
        assert_eq!(packing.unpack(&packed).unwrap(), other.as_bytes());
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_before_it_is_allocated() {
        let packed = [0xff, 0xff, 0xff, 0xff, 0x10, 0x41];
        assert_eq!(Packing::new(b"").unpack(&packed), Err(UnpackError));
    }

    proptest! {
        #[test]
        fn unpacking_returns_what_was_packed(
            reference: Vec<u8>, data: Vec<u8>, from in 0..8usize, repeats in 0..40usize,
        ) {
            let packing = Packing::new(&reference);
            let mut data = data.repeat(repeats);
            data.extend_from_slice(&reference[from.min(reference.len())..]);
            prop_assert_eq!(packing.unpack(&packing.pack(&data)).unwrap(), data);
        }

        #[test]
        fn unpacking_never_panics(reference: Vec<u8>, packed: Vec<u8>) {
            let _ = Packing::new(&reference).unpack(&packed);
        }
    }
}
