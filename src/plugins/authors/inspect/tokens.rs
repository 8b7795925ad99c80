//! A Luau source as words, each with its line. Comments go; what is no Luau is left to the compiler to complain about.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Name,
    Text,
    Number,
    Sign,
}

#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    pub kind: Kind,
    /// Of a text, what is between its quotes, escapes and all.
    pub text: &'a str,
    pub line: usize,
}

const LONG_SIGNS: [&str; 16] =
    ["...", "..=", "//=", "..", "==", "~=", "<=", ">=", "+=", "-=", "*=", "/=", "%=", "^=", "//", "->"];

pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while let Some(c) = source[at..].chars().next() {
        let rest = &source[at..];
        let (kind, length, inner) = if c.is_whitespace() {
            (None, c.len_utf8(), 0..0)
        } else if let Some(comment) = rest.strip_prefix("--") {
            let length = long_bracket(comment).map_or_else(|| rest.find('\n').unwrap_or(rest.len()), |long| 2 + long.0);
            (None, length, 0..0)
        } else if let Some((length, level)) = long_bracket(rest) {
            (Some(Kind::Text), length, level + 2..length.saturating_sub(level + 2).max(level + 2))
        } else if matches!(c, '"' | '\'' | '`') {
            let length = quoted(rest, c);
            (Some(Kind::Text), length, 1..length.saturating_sub(1).max(1))
        } else if c.is_ascii_digit() {
            let end = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_');
            let length = rest.find(end).unwrap_or(rest.len());
            // `1..x` joins, it is not the number `1..`.
            let length = rest[..length].find("..").unwrap_or(length).max(1);
            (Some(Kind::Number), length, 0..length)
        } else if c.is_alphabetic() || c == '_' {
            let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            (Some(Kind::Name), length, 0..length)
        } else {
            let length =
                LONG_SIGNS.iter().find(|sign| rest.starts_with(**sign)).map_or(c.len_utf8(), |sign| sign.len());
            (Some(Kind::Sign), length, 0..length)
        };
        if let Some(kind) = kind {
            found.push(Token { kind, text: rest.get(inner).unwrap_or_default(), line });
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    found
}

/// `[[..]]` or `[=[..]=]`: how long it is, and how many signs of equality it has.
fn long_bracket(text: &str) -> Option<(usize, usize)> {
    let rest = text.strip_prefix('[')?;
    let level = rest.len() - rest.trim_start_matches('=').len();
    rest[level..].strip_prefix('[')?;
    let end = format!("]{}]", "=".repeat(level));
    Some((text.find(&end).map_or(text.len(), |at| at + end.len()), level))
}

/// A text in quotes, with both. In one in backticks what stands in braces may hold others.
fn quoted(text: &str, quote: char) -> usize {
    let (mut escaped, mut depth) = (false, 0_usize);
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' if quote == '`' => depth += 1,
            '}' if quote == '`' => depth = depth.saturating_sub(1),
            c if c == quote && depth == 0 => return at + 1,
            '\n' if quote != '`' => return at,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_texts_stay_whole() {
        let source =
            "local x = \"a\\\"b\" -- no\n--[[ not\nthis ]] y = [==[ long ]] ]==]\nz ..= `n {t[\"`\"]} m` .. 1..2";
        let words: Vec<_> = tokens(source).iter().map(|token| (token.text, token.line)).collect();
        assert_eq!(
            words,
            [
                ("local", 1),
                ("x", 1),
                ("=", 1),
                ("a\\\"b", 1),
                ("y", 3),
                ("=", 3),
                (" long ]] ", 3),
                ("z", 4),
                ("..=", 4),
                ("n {t[\"`\"]} m", 4),
                ("..", 4),
                ("1", 4),
                ("..", 4),
                ("2", 4),
            ]
        );
    }

    #[test]
    fn what_never_ends_ends_with_the_file() {
        for source in ["\"abc", "[[abc", "--[[abc", "`abc{", "[=[", "'", "\"\\"] {
            tokens(source);
        }
    }
}
