//! Patterns of tunnel names: `*` matches any run of characters.

/// True if `name` matches `pattern`; case is ignored, as in tunnel names.
///
/// Retries only at the last `*`, so it takes at most `pattern.len() * name.len()` steps.
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
