//! Decoders for other spellings of a text: base64 and UTF-16. Each is as lenient as the most lenient server, because
//! the result is only searched.

/// Blanks in a run of base64 behind which base64 may begin: after a scheme, or after two words.
const WORDS_MAX: usize = 2;

/// A UTF-16 text in either byte order as one byte per character; `None` if the text has no NUL bytes.
pub(super) fn narrowed(text: &[u8]) -> Option<Vec<u8>> {
    let is_wide = text.contains(&0);
    is_wide.then(|| text.iter().copied().filter(|byte| *byte != 0).collect())
}

/// True if `is_wanted` accepts any reading of a text as base64 with at least `chars_min` characters.
///
/// Other characters may precede the base64, so its start is unknown. Each run of base64 characters is read,
/// without its blanks, at the four possible offsets; then from behind each of its first [`WORDS_MAX`] blanks;
/// then in each part between slashes, which separate path segments.
pub(super) fn base64_readings(
    text: &[u8],
    chars_min: usize,
    is_wanted: impl Fn(&[u8]) -> bool,
) -> bool {
    let mut runs = text.split(|byte| sextet(*byte).is_none() && !byte.is_ascii_whitespace());
    runs.any(|run| {
        let run = run.trim_ascii();
        if run.len() < chars_min {
            return false;
        }
        let blanks = run.iter().filter(|byte| byte.is_ascii_whitespace()).count();
        let joined = (blanks > 0).then(|| without_blanks(run));
        let whole = joined.as_deref().unwrap_or(run);
        let is_long = |part: &&[u8]| part.len() >= chars_min;
        let mut places = (0..4)
            .filter_map(|start| whole.get(start..))
            .filter(is_long);
        if places.any(&is_wanted) {
            return true;
        }
        let mut rest = run;
        for _ in 0..blanks.min(WORDS_MAX) {
            let end = rest.iter().position(u8::is_ascii_whitespace);
            rest = rest[end.unwrap_or(0)..].trim_ascii_start();
            let text = without_blanks(rest);
            if is_long(&&text[..]) && is_wanted(&text) {
                return true;
            }
        }
        let mut parts = run.split(|byte| *byte == b'/' || byte.is_ascii_whitespace());
        run.contains(&b'/') && parts.any(|part| is_long(&part) && is_wanted(part))
    })
}

fn without_blanks(text: &[u8]) -> Vec<u8> {
    let bytes = text.iter().copied();
    bytes.filter(|byte| !byte.is_ascii_whitespace()).collect()
}

/// True if `is_wanted` accepts a run of at least `chars_min` text bytes in a decoded text. NUL counts as a text
/// byte, for UTF-16. Decoded bytes that are not text rarely form such a run.
pub(super) fn any_text(read: &[u8], chars_min: usize, is_wanted: impl Fn(&[u8]) -> bool) -> bool {
    let is_char = |byte: &u8| IS_TEXT[usize::from(*byte)] == 1;
    let (mut row, mut at) = (0, 0);
    while let Some(byte) = read.get(at) {
        at += 1;
        // Branch-free, because random bytes would defeat branch prediction.
        row = (row + 1) * IS_TEXT[usize::from(*byte)];
        if row >= chars_min {
            let start = at - row;
            let end = read[at..].iter().position(|byte| !is_char(byte));
            at = end.map_or(read.len(), |end| at + end);
            if is_wanted(&read[start..at]) {
                return true;
            }
            row = 0;
        }
    }
    false
}

/// Decodes base64 of either alphabet, with or without padding, ignoring the unused last bits; `None` if
/// the text has another character.
pub(super) fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|byte| *byte != b'=')? + 1;
    let mut bytes = Vec::with_capacity(end / 4 * 3 + 3);
    let sextet = |byte: &u8| SEXTETS[usize::from(*byte)];
    let mut all = 0;
    let (quads, rest) = text[..end].as_chunks::<4>();
    for quad in quads {
        let [a, b, c, d] = quad.each_ref().map(sextet);
        all |= a | b | c | d;
        bytes.extend([a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d]);
    }
    let rest: Vec<u8> = rest.iter().map(sextet).collect();
    all |= rest.iter().fold(0, |all, sextet| all | sextet);
    match rest[..] {
        [a, b] => bytes.push(a << 2 | b >> 4),
        [a, b, c] => bytes.extend([a << 2 | b >> 4, b << 4 | c >> 2]),
        _ => {}
    }
    (all < 64).then_some(bytes)
}

/// The value of a base64 character of either alphabet.
pub(super) const fn sextet(byte: u8) -> Option<u8> {
    let sextet = SEXTETS[byte as usize];
    if sextet < 64 { Some(sextet) } else { None }
}

/// 1 for a byte of text, otherwise 0.
const IS_TEXT: [usize; 256] = {
    let mut is_text = [0; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        if byte.is_ascii_graphic() || byte.is_ascii_whitespace() || byte == 0 {
            is_text[byte as usize] = 1;
        }
        byte += 1;
    }
    is_text
};

const SEXTETS: [u8; 256] = {
    let mut sextets = [64; 256];
    let mut value = 0;
    while value < 26 {
        sextets[(b'A' + value) as usize] = value;
        sextets[(b'a' + value) as usize] = value + 26;
        if value < 10 {
            sextets[(b'0' + value) as usize] = value + 52;
        }
        value += 1;
    }
    (sextets[b'+' as usize], sextets[b'-' as usize]) = (62, 62);
    (sextets[b'/' as usize], sextets[b'_' as usize]) = (63, 63);
    sextets
};

/// True for the characters of base64url.
pub(super) const fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}
