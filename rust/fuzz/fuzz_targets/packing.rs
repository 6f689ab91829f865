//! Whatever a packing packs it unpacks again, and no bytes make it panic or ask for more memory
//! than they can stand for. The input is the length of the reference in two bytes, the reference,
//! and what is packed and unpacked.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use hybrid_core::packing::{Packing, UnpackError};
use libfuzzer_sys::fuzz_target;

/// Bytes that one byte of LZ4 stands for at most.
const MOST_PER_BYTE: usize = 255;

/// The system's allocator, remembering the largest request. libFuzzer sees only memory that is
/// touched, which memory for a length that is made up never is.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the methods hand their arguments to `System`, which keeps the contract.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller's promise is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Relaxed);
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Unpacks what may be anything.
fn unpack(packing: &Packing, packed: &[u8]) -> Result<Vec<u8>, UnpackError> {
    LARGEST.store(0, Relaxed);
    let unpacked = packing.unpack(packed);
    assert!(LARGEST.load(Relaxed) <= MOST_PER_BYTE * packed.len());
    unpacked
}

fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (reference, rest) = rest.split_at(length);
    let packing = Packing::new(reference);

    if let Ok(unpacked) = unpack(&packing, rest) {
        assert_eq!(packing.unpack(&packing.pack(&unpacked)).unwrap(), unpacked);
    }

    // Messages are alike: the reference, with something else in the middle and at the end.
    let (before, after) = reference.split_at(length / 2);
    let (middle, end) = rest.split_at(rest.len() / 2);
    let message = [before, middle, after, end].concat();
    let mut packed = packing.pack(&message);
    assert_eq!(unpack(&packing, &packed).unwrap(), message);

    // Cut short, or with a bit that fell over, it is garbage like any other.
    let _ = unpack(&packing, &packed[..packed.len() / 2]);
    let at = length % packed.len();
    packed[at] ^= 0x80;
    let _ = unpack(&packing, &packed);
});
