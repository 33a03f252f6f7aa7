//! Patterns of tunnel names: `*` stands for any run of characters.

/// Whether `name` fits `pattern`; letters compare without case, as tunnel names do.
///
/// Remembers the last `*` only, so it never takes more than `pattern` times `name` steps.
#[must_use]
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(byte) if byte.eq_ignore_ascii_case(&name[n]) => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star, start)) = retry else {
                    return false;
                };
                retry = Some((star, start + 1));
                p = star + 1;
                n = start + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}
