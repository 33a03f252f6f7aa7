//! Splits Rust source into words and signs with their line numbers; drops comments and the content of literals.
//!
//! Knows just enough of the grammar to tell test code from other code.

/// A word, a single sign, or a literal; a literal's text is `"`.
pub(crate) struct Token {
    pub(crate) text: String,
    /// Line number, counted from 1.
    pub(crate) line: usize,
    pub(crate) is_test: bool,
}

/// Marks items under `#[test]`, `#[tokio::test]` or `#[cfg(test)]` as test code, up to the item's end.
pub(crate) fn mark_tests(tokens: &mut [Token], all: bool) {
    let mut at = 0;
    while at < tokens.len() {
        let whole_file = tokens[at].text == "#" && text_at(tokens, at + 1) == "!";
        let open = if whole_file { at + 2 } else { at + 1 };
        if tokens[at].text != "#" || text_at(tokens, open) != "[" {
            tokens[at].is_test |= all;
            at += 1;
            continue;
        }
        let close = matching_end(tokens, open);
        let words: Vec<_> = tokens[open..close]
            .iter()
            .map(|token| token.text.as_str())
            .collect();
        let gates = match words.get(1) {
            Some(&"test") => true,
            Some(&"cfg") => words.contains(&"test") && !words.contains(&"not"),
            _ => words.windows(2).any(|pair| pair == [":", "test"]),
        };
        let end = match (gates, whole_file) {
            (false, _) => close,
            (true, true) => tokens.len(),
            (true, false) => item_end(tokens, close),
        };
        tokens[at..end]
            .iter_mut()
            .for_each(|token| token.is_test |= all || gates);
        at = end;
    }
}

fn text_at(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

/// Index after the bracket that closes the bracket at `open`.
fn matching_end(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// Index after the item that starts at `at`, including further attributes.
pub(crate) fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            ";" => return at + 1,
            "{" => return matching_end(tokens, at),
            "(" | "[" => at = matching_end(tokens, at),
            _ => at += 1,
        }
    }
    tokens.len()
}

pub(crate) fn lex(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let peek = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let is_word = |sign: char| sign.is_alphanumeric() || sign == '_';
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < chars.len() {
        let start = at;
        let mut text = String::new();
        match chars[at] {
            '/' if peek(at + 1) == '/' => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1;
                }
            }
            '/' if peek(at + 1) == '*' => at = comment_end(&chars, at),
            '"' => (at, text) = (string_end(&chars, at), "\"".to_owned()),
            '\'' if peek(at + 1) == '\\' || peek(at + 2) == '\'' => {
                // The character after a backslash may be a quote.
                at += if peek(at + 1) == '\\' { 3 } else { 2 };
                while at < chars.len() && chars[at] != '\'' {
                    at += 1;
                }
                (at, text) = (at + 1, "\"".to_owned());
            }
            first if is_word(first) => {
                while is_word(peek(at)) {
                    at += 1;
                }
                text = chars[start..at].iter().collect();
                let hashes = chars[at..].iter().take_while(|&&sign| sign == '#').count();
                let quoted = peek(at + hashes) == '"';
                if quoted && matches!(text.as_str(), "r" | "br" | "cr") {
                    (at, text) = (raw_end(&chars, at + hashes + 1, hashes), "\"".to_owned());
                } else if quoted && hashes == 0 && matches!(text.as_str(), "b" | "c") {
                    (at, text) = (string_end(&chars, at), "\"".to_owned());
                }
            }
            sign if sign.is_whitespace() => at += 1,
            sign => (at, text) = (at + 1, sign.to_string()),
        }
        if !text.is_empty() {
            tokens.push(Token {
                text,
                line,
                is_test: false,
            });
        }
        at = at.min(chars.len());
        line += chars[start..at]
            .iter()
            .filter(|&&sign| sign == '\n')
            .count();
    }
    tokens
}

fn comment_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < chars.len() {
        match chars.get(at..at + 2) {
            Some(['/', '*']) => (depth, at) = (depth + 1, at + 2),
            Some(['*', '/']) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_end(chars: &[char], open: usize) -> usize {
    let mut at = open + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_end(chars: &[char], mut at: usize, hashes: usize) -> usize {
    while at < chars.len() {
        let closing = chars[at + 1..]
            .iter()
            .take(hashes)
            .filter(|&&sign| sign == '#')
            .count();
        if chars[at] == '"' && closing == hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}
