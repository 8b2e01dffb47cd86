use super::*;
use proptest::prelude::*;

fn drain(out: &mut OutBuf, step: usize, pool: &mut BufferPool) -> Vec<u8> {
    let mut all = Vec::new();
    while !out.is_empty() {
        let mut slices = [IoSlice::new(&[]); 3];
        let filled = out.slices(&mut slices);
        let written: Vec<u8> = slices[..filled].iter().flat_map(|s| s.iter().copied()).take(step).collect();
        assert!(!written.is_empty());
        out.advance(written.len(), pool);
        all.extend(written);
    }
    all
}

#[test]
fn what_is_cut_to_nothing_holds_nothing() {
    let (mut pool, mut out) = (BufferPool::default(), OutBuf::default());
    out.append(b"get a\r\nget b\r\n", &mut pool);
    out.advance(7, &mut pool);
    out.cut(std::slice::from_ref(&(0..7)), &mut pool);
    assert_eq!((out.len(), out.held()), (0, 0));
    out.append(b"get c\r\n", &mut pool);
    assert_eq!(drain(&mut out, 3, &mut pool), b"get c\r\n");
}

proptest! {
    /// Whatever is queued comes out in order, however it was queued and however it is written.
    #[test]
    fn bytes_come_out_in_the_order_they_went_in(
        pieces in prop::collection::vec((0..3_u8, prop::collection::vec(any::<u8>(), 0..40_000)), 0..12),
        step in 1_usize..70_000,
        early in 0_usize..5_000,
    ) {
        let mut pool = BufferPool::default();
        let mut out = OutBuf::default();
        let mut expected = Vec::new();
        let mut found = Vec::new();
        for (how, bytes) in pieces {
            expected.extend_from_slice(&bytes);
            match how {
                0 => out.append(&bytes, &mut pool),
                1 => out.push(bytes),
                _ => {
                    let slice = pool.share(Input::borrowed(&bytes));
                    out.push_slice(slice);
                }
            }
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let filled = out.slices(&mut slices);
            let some: Vec<u8> = slices[..filled].iter().flat_map(|s| s.iter().copied()).take(early).collect();
            out.advance(some.len(), &mut pool);
            found.extend(some);
        }
        prop_assert_eq!(out.len(), expected.len() - found.len());
        found.extend(drain(&mut out, step, &mut pool));
        prop_assert!(found == expected);
    }
}

proptest! {
    /// What is cut out of the middle is never sent, and all else is.
    #[test]
    fn a_cut_takes_its_ranges_and_nothing_else(
        pieces in prop::collection::vec((0..3_u8, prop::collection::vec(any::<u8>(), 0..40_000)), 1..8),
        cuts in prop::collection::vec((1_usize..30_000, 0_usize..30_000), 0..6),
        step in 1_usize..70_000,
        early in 0_usize..60_000,
    ) {
        let mut pool = BufferPool::default();
        let mut out = OutBuf::default();
        let mut expected = Vec::new();
        for (how, bytes) in pieces {
            expected.extend_from_slice(&bytes);
            match how {
                0 => out.append(&bytes, &mut pool),
                1 => out.push(bytes),
                _ => {
                    let slice = pool.share(Input::borrowed(&bytes));
                    out.push_slice(slice);
                }
            }
        }
        let early = early.min(expected.len());
        out.advance(early, &mut pool);
        expected.drain(..early);
        let mut ranges = Vec::new();
        let mut at = 0;
        for (gap, len) in cuts {
            let (start, end) = ((at + gap).min(expected.len()), (at + gap + len).min(expected.len()));
            if start < end {
                ranges.push(start..end);
            }
            at = end + 1;
        }
        out.cut(&ranges, &mut pool);
        for range in ranges.iter().rev() {
            expected.drain(range.clone());
        }
        prop_assert_eq!(out.len(), expected.len());
        prop_assert!(drain(&mut out, step, &mut pool) == expected);
    }
}

#[test]
fn an_emptied_queue_holds_no_buffer() {
    let mut pool = BufferPool::default();
    let mut out = OutBuf::default();
    out.append(b"hello", &mut pool);
    out.advance(5, &mut pool);
    assert_eq!(out.tail.capacity(), 0);
    assert_eq!(pool.buffers.len(), 1);
    out.append(b"again", &mut pool);
    assert_eq!(pool.buffers.len(), 0, "the buffer is used again");
}
