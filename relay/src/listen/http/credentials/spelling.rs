//! Other spellings of a text: escaped, in base 64, in two bytes a character. Each is undone as leniently as
//! the most lenient server does it, because what is undone here is only looked at.

/// A text with its escapes undone (`%2E`, and `%u002e` as some servers have it); `None` if it has none.
pub(super) fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut at = text.iter().position(|byte| *byte == b'%')?;
    let mut plain = text[..at].to_vec();
    let mut is_changed = false;
    while at < text.len() {
        let (byte, len) = escape(&text[at..]).unwrap_or((text[at], 1));
        is_changed |= len > 1;
        plain.push(byte);
        at += len;
    }
    is_changed.then_some(plain)
}

/// The byte that an escape at the beginning of a text stands for, and the escape's length.
fn escape(text: &[u8]) -> Option<(u8, usize)> {
    match *text {
        [b'%', high, low, ..] if hex(high).is_some() && hex(low).is_some() => {
            Some((hex(high)? << 4 | hex(low)?, 3))
        }
        [b'%', b'u' | b'U', b'0', b'0', high, low, ..] => Some((hex(high)? << 4 | hex(low)?, 6)),
        _ => None,
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// A text of two bytes a character (UTF-16, in either order) in one byte each; `None` if it is none.
pub(super) fn narrowed(text: &[u8]) -> Option<Vec<u8>> {
    let is_wide = text.contains(&0);
    is_wide.then(|| text.iter().copied().filter(|byte| *byte != 0).collect())
}

/// The parts of a text that can be base 64, blanks within left out, of `chars_min` characters or more.
pub(super) fn base64_runs(text: &[u8], chars_min: usize) -> impl Iterator<Item = Vec<u8>> {
    let runs = text.split(|byte| sextet(*byte).is_none() && !byte.is_ascii_whitespace());
    runs.filter(move |run| run.len() >= chars_min)
        .map(without_blanks)
        .filter(move |run| run.len() >= chars_min)
}

pub(super) fn without_blanks(text: &[u8]) -> Vec<u8> {
    let bytes = text.iter().copied();
    bytes.filter(|byte| !byte.is_ascii_whitespace()).collect()
}

/// What a text means in base 64, of either alphabet, padded or not, whatever its last bits are; `None` if
/// it holds another character.
pub(super) fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|byte| *byte != b'=')? + 1;
    let mut bytes = Vec::with_capacity(end / 4 * 3 + 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in &text[..end] {
        bits = bits << 6 | u32::from(sextet(*byte)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

/// What a character of base 64 stands for, in either alphabet.
pub(super) const fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

/// True for the characters of base 64 for URLs.
pub(super) const fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}
