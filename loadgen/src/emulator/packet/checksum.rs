//! The checksum of IP, TCP, UDP and ICMP (RFC 1071): sums of 16-bit words in ones' complement.

/// Sum of the words of `bytes`, not folded. An odd last byte counts as the high half of a word.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(2);
    let last = words.remainder().first().copied().unwrap_or(0);
    let words: u64 = words.map(|word| u64::from(word_at(word, 0))).sum();
    words + (u64::from(last) << 8)
}

/// The sum with its carries added, in 16 bits.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Checksum of `bytes` and of what `before` sums, with its own place in `bytes` set to 0.
pub(crate) fn of(bytes: &[u8], before: u64) -> u16 {
    !fold(sum(bytes) + before)
}

/// Changes a folded sum by replacing one of its words, as in RFC 1624.
pub(crate) fn replaced(folded: u16, old: u16, new: u16) -> u16 {
    fold(u64::from(folded) + u64::from(!old) + u64::from(new))
}

/// Big-endian word at `at`; 0 behind the end.
pub(crate) fn word_at(bytes: &[u8], at: usize) -> u16 {
    let word = bytes.get(at..at + 2);
    word.map_or(0, |word| u16::from_be_bytes([word[0], word[1]]))
}

/// Writes a big-endian word at `at`; nothing behind the end.
pub(crate) fn set_word(bytes: &mut [u8], at: usize, word: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_has_its_sum() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        assert_eq!(of(&bytes, 0), 0x220d);
        assert_eq!(sum(&[0x12]), 0x1200);
    }

    #[test]
    fn a_replaced_word_has_the_same_sum_as_a_new_one() {
        let mut bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5];
        let folded = fold(sum(&bytes));
        let old = word_at(&bytes, 2);
        set_word(&mut bytes, 2, 0x05dc);
        assert_eq!(replaced(folded, old, 0x05dc), fold(sum(&bytes)));
    }

    #[test]
    fn words_behind_the_end_are_zero() {
        let mut bytes = [1, 2, 3];
        assert_eq!(word_at(&bytes, 2), 0);
        set_word(&mut bytes, 2, 9);
        assert_eq!(bytes, [1, 2, 3]);
    }
}
