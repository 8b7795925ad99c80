//! One grammar of channel patterns, for hooks, grants, retention, claims and keys alike.
//!
//! Segments are separated by `.`, `/` or `:`, and a pattern's separators must be the name's. `{name}` captures one
//! segment, `*` is any one segment, and a trailing `*` is everything below, at any depth but at least one segment
//! more. `*` alone is every channel. Names that begin with `$` are reached only by patterns that themselves begin
//! with `$`.

use std::fmt;

use super::message::ChannelName;

/// A pattern, split once when it is read.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pattern(Form);

/// The three shapes that nearly all patterns have are decided by one comparison.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Form {
    Every,
    Literal(Box<str>),
    /// `order.*`: the prefix with its separator.
    Below(Box<str>),
    Segments(Box<[Segment]>),
}

/// One segment and the separator before it (none for the first).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Segment {
    before: Option<char>,
    part: Part,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Part {
    Text(Box<str>),
    One,
    Capture(Box<str>),
    Rest,
}

/// Why a text is not a pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PatternError {
    pub pattern: String,
    pub why: String,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pattern {:?}: {}", self.pattern, self.why)
    }
}

impl std::error::Error for PatternError {}

fn is_separator(c: char) -> bool {
    matches!(c, '.' | '/' | ':')
}

/// Segments with the separator before each.
fn split(text: &str) -> impl Iterator<Item = (Option<char>, &str)> {
    let mut rest = Some(text);
    let mut before = None;
    std::iter::from_fn(move || {
        let here = rest?;
        let item = match here.find(is_separator) {
            Some(at) => {
                let item = (before, &here[..at]);
                before = here[at..].chars().next();
                rest = Some(&here[at + 1..]);
                item
            }
            None => {
                rest = None;
                (before, here)
            }
        };
        Some(item)
    })
}

impl Pattern {
    /// Longer than any channel's name is of no use, so nothing longer is kept.
    pub const MAX_BYTES: usize = 256;

    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        Self::build(text, &[])
    }

    /// A name as it stands; nothing in it is a wildcard.
    pub fn literal(name: &str) -> Pattern {
        Pattern(Form::Literal(name.into()))
    }

    /// Parses a pattern whose `{}` stand for `values`. A value stays what it is: a `*` in it is no wildcard, and
    /// because a separator in it would reach into somebody else's names, a value that has one is refused.
    pub fn with(format: &str, values: &[&str]) -> Result<Pattern, PatternError> {
        Self::build(format, values)
    }

    fn build(text: &str, values: &[&str]) -> Result<Pattern, PatternError> {
        let wrong = |why: String| PatternError { pattern: text.to_owned(), why };
        if text.is_empty() {
            return Err(wrong("it is empty".into()));
        }
        if text.len() > Self::MAX_BYTES {
            return Err(wrong(format!("it is longer than {} bytes", Self::MAX_BYTES)));
        }
        let mut values = values.iter();
        let mut segments: Vec<Segment> = Vec::new();
        let pieces: Vec<_> = split(text).collect();
        let last = pieces.len() - 1;
        for (at, (before, piece)) in pieces.into_iter().enumerate() {
            let part = match piece {
                "*" if at == last => Part::Rest,
                "*" => Part::One,
                // Names may hold empty segments (`/`, `a//b`), so literal patterns may too; `.*` grants nothing
                // sensible.
                "" if at == 0 && text.ends_with('*') => {
                    return Err(wrong("nothing stands before the first separator".into()));
                }
                _ if piece.contains("{}") => Part::Text(fill(piece, &mut values).map_err(&wrong)?.into()),
                _ if piece.starts_with('{') && piece.ends_with('}') => {
                    Part::Capture(capture(&piece[1..piece.len() - 1], &segments).map_err(&wrong)?)
                }
                _ if piece.contains('*') => {
                    return Err(wrong(format!("`*` stands for a whole segment, not for a part of {piece:?}")));
                }
                _ if piece.contains(['{', '}']) => {
                    return Err(wrong(format!("`{{name}}` stands for a whole segment, not for a part of {piece:?}")));
                }
                _ => Part::Text(piece.into()),
            };
            segments.push(Segment { before, part });
        }
        if values.next().is_some() {
            return Err(wrong("it has fewer {} than values to put there".into()));
        }
        Ok(Pattern(Form::from_segments(segments)))
    }

    pub fn matches(&self, name: &str) -> bool {
        match &self.0 {
            Form::Every => !name.starts_with('$'),
            Form::Literal(text) => &**text == name,
            Form::Below(prefix) => name.len() > prefix.len() && name.starts_with(&**prefix),
            Form::Segments(segments) => walk(segments, name, |_, _| ()),
        }
    }

    /// What each `{name}` stands for in `name`, in order; none if the pattern does not match.
    pub fn captures<'a>(&'a self, name: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
        match &self.0 {
            Form::Segments(segments) => {
                let mut found = Vec::new();
                walk(segments, name, |key, value| found.push((key, value))).then_some(found)
            }
            _ => self.matches(name).then(Vec::new),
        }
    }

    /// Whether every name that `other` matches is matched by this one too.
    pub fn covers(&self, other: &Pattern) -> bool {
        let (ours, theirs) = (self.segments(), other.segments());
        if theirs.first().is_some_and(Segment::is_reserved) && !ours.first().is_some_and(Segment::is_reserved) {
            return false;
        }
        for (at, our) in ours.iter().enumerate() {
            let Some(their) = theirs.get(at) else { return false };
            if our.before != their.before {
                return false;
            }
            match (&our.part, &their.part) {
                (Part::Rest, _) => return !ends_empty(&theirs, at),
                (_, Part::Rest) => return false,
                (Part::Text(a), Part::Text(b)) if a == b => {}
                (Part::Text(_), _) => return false,
                (Part::One | Part::Capture(_), their) if their.is_empty() => return false,
                (Part::One | Part::Capture(_), _) => {}
            }
        }
        ours.len() == theirs.len()
    }

    /// Whether some name matches both.
    pub fn meets(&self, other: &Pattern) -> bool {
        let (ours, theirs) = (self.segments(), other.segments());
        let reserved = |all: &[Segment]| all.first().is_some_and(Segment::is_reserved);
        if reserved(&ours) != reserved(&theirs) {
            return false;
        }
        for at in 0.. {
            let (our, their) = match (ours.get(at), theirs.get(at)) {
                (None, None) => return true,
                (Some(our), Some(their)) if our.before == their.before => (&our.part, &their.part),
                _ => return false,
            };
            match (our, their) {
                (Part::Rest, _) | (_, Part::Rest) => return !ends_empty(&ours, at) && !ends_empty(&theirs, at),
                (Part::Text(a), Part::Text(b)) if a != b => return false,
                (Part::Text(_), Part::Text(_)) => {}
                (one, other) if one.is_empty() || other.is_empty() => return false,
                _ => {}
            }
        }
        true
    }

    /// A name that it matches, if there can be one.
    pub fn example(&self) -> Option<ChannelName> {
        let piece = |segment: &Segment| {
            let text = if let Part::Text(text) = &segment.part { text } else { "x" };
            segment.before.map_or(String::new(), String::from) + text
        };
        ChannelName::new(&self.segments().iter().map(piece).collect::<String>()).ok()
    }

    /// Whether only plugins' names (`$...`) can match.
    pub fn is_reserved(&self) -> bool {
        self.segments().first().is_some_and(Segment::is_reserved)
    }

    fn segments(&self) -> Vec<Segment> {
        let texts = |text: &str| -> Vec<Segment> {
            split(text).map(|(before, piece)| Segment { before, part: Part::Text(piece.into()) }).collect()
        };
        match &self.0 {
            Form::Every => vec![Segment { before: None, part: Part::Rest }],
            Form::Literal(text) => texts(text),
            Form::Below(prefix) => {
                let mut segments = texts(prefix);
                if let Some(last) = segments.last_mut() {
                    last.part = Part::Rest;
                }
                segments
            }
            Form::Segments(segments) => segments.to_vec(),
        }
    }
}

impl Part {
    /// No wildcard stands for nothing.
    fn is_empty(&self) -> bool {
        matches!(self, Part::Text(text) if text.is_empty())
    }
}

/// Whether nothing comes after the separator before a segment: a name like `a:`.
fn ends_empty(segments: &[Segment], at: usize) -> bool {
    at + 1 == segments.len() && segments[at].part.is_empty()
}

impl Segment {
    fn is_reserved(&self) -> bool {
        matches!(&self.part, Part::Text(text) if text.starts_with('$'))
    }
}

impl Form {
    fn from_segments(segments: Vec<Segment>) -> Form {
        let Some((last, head)) = segments.split_last() else { return Form::Segments(Box::default()) };
        let mut text = String::new();
        for segment in head {
            let Part::Text(piece) = &segment.part else { return Form::Segments(segments.into()) };
            text.extend(segment.before);
            text.push_str(piece);
        }
        text.extend(last.before);
        match &last.part {
            Part::Rest if head.is_empty() => Form::Every,
            Part::Rest => Form::Below(text.into()),
            Part::Text(piece) => Form::Literal((text + piece).into()),
            _ => Form::Segments(segments.into()),
        }
    }
}

fn walk<'a>(segments: &'a [Segment], name: &'a str, mut captured: impl FnMut(&'a str, &'a str)) -> bool {
    if name.starts_with('$') && !segments.first().is_some_and(Segment::is_reserved) {
        return false;
    }
    let mut rest = name;
    for segment in segments {
        if let Some(separator) = segment.before {
            match rest.strip_prefix(separator) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        if segment.part == Part::Rest {
            return !rest.is_empty();
        }
        let (piece, after) = rest.split_at(rest.find(is_separator).unwrap_or(rest.len()));
        match &segment.part {
            Part::Text(text) if &**text == piece => {}
            Part::One if !piece.is_empty() => {}
            Part::Capture(key) if !piece.is_empty() => captured(key, piece),
            _ => return false,
        }
        rest = after;
    }
    rest.is_empty()
}

fn capture(name: &str, before: &[Segment]) -> Result<Box<str>, String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.chars().all(word) || !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return Err(format!("{{{name}}}: a capture's name is letters, digits and `_`"));
    }
    if name == "name" {
        return Err("{name}: a channel's own name is already called that".into());
    }
    if before.iter().any(|s| matches!(&s.part, Part::Capture(other) if &**other == name)) {
        return Err(format!("{{{name}}} stands there twice"));
    }
    Ok(name.into())
}

fn fill<'v>(piece: &str, values: &mut impl Iterator<Item = &'v &'v str>) -> Result<String, String> {
    let mut text = String::new();
    for (at, fixed) in piece.split("{}").enumerate() {
        if at > 0 {
            let value = values.next().ok_or("it has more {} than values to put there")?;
            if value.is_empty() {
                return Err("a value for {} is empty".into());
            }
            if value.contains(is_separator) {
                return Err(format!("the value {value:?} for {{}} holds a separator and would reach into other names"));
            }
            text.push_str(value);
        }
        if fixed.contains(['*', '{', '}']) {
            return Err(format!("a wildcard stands for a whole segment, not for a part of {piece:?}"));
        }
        text.push_str(fixed);
    }
    Ok(text)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Every => f.write_str("*"),
            Form::Literal(text) => f.write_str(text),
            Form::Below(prefix) => write!(f, "{prefix}*"),
            Form::Segments(segments) => segments.iter().try_for_each(|segment| {
                segment.before.map_or(Ok(()), |c| write!(f, "{c}"))?;
                match &segment.part {
                    Part::Text(text) => f.write_str(text),
                    Part::One | Part::Rest => f.write_str("*"),
                    Part::Capture(key) => write!(f, "{{{key}}}"),
                }
            }),
        }
    }
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Pattern::parse(text)
    }
}

/// A list of patterns, any of which may match. By default there are none, and none matches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Patterns(Vec<Pattern>);

impl Patterns {
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }

    /// All of them, or what is wrong with the first bad one.
    pub fn from_strings<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Result<Patterns, PatternError> {
        texts.into_iter().map(|text| Pattern::parse(text.as_ref())).collect::<Result<_, _>>().map(Patterns)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Pattern> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn covers(&self, other: &Pattern) -> bool {
        self.0.iter().any(|pattern| pattern.covers(other))
    }
}

impl FromIterator<Pattern> for Patterns {
    fn from_iter<I: IntoIterator<Item = Pattern>>(patterns: I) -> Self {
        Patterns(patterns.into_iter().collect())
    }
}

impl Extend<Pattern> for Patterns {
    fn extend<I: IntoIterator<Item = Pattern>>(&mut self, patterns: I) {
        self.0.extend(patterns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    fn check(text: &str, yes: &[&str], no: &[&str]) {
        let pattern = pattern(text);
        assert_eq!(pattern.to_string(), text);
        yes.iter().for_each(|name| assert!(pattern.matches(name), "{text} should match {name}"));
        no.iter().for_each(|name| assert!(!pattern.matches(name), "{text} should not match {name}"));
    }

    #[test]
    fn a_trailing_star_is_everything_below_and_not_the_thing_itself() {
        check(
            "order.*",
            &["order.1", "order.1.x", "order.1/x:y"],
            &["order", "orders.1", "order/1", "Order.1", "order."],
        );
        check("a/*", &["a/b", "a//"], &["a/", "a", "a.b"]);
        check("{x}.*", &["a.b", "a.b.c"], &["a", "a.", ".b", "$a.b"]);
    }

    #[test]
    fn a_star_alone_is_every_channel_but_the_reserved() {
        check("*", &["a", "a.b", "/"], &["$user.1"]);
        check("$user.*", &["$user.1"], &["user.1", "$users.1"]);
        check("$user.{id}", &["$user.1"], &["user.1"]);
        check("*.b", &["a.b"], &["$a.b", "a.b.c", "b", "a.a.b"]);
        check("$user", &["$user"], &["user"]);
    }

    #[test]
    fn a_capture_takes_one_segment_and_separators_must_agree() {
        check("room.{room}", &["room.1"], &["room", "room.1.2", "room/1", "room.a/b", "room.a:b"]);
        assert_eq!(pattern("a/{x}:{y}").captures("a/1:2"), Some(vec![("x", "1"), ("y", "2")]));
        assert_eq!(pattern("a.{x}.*").captures("a.1.2.3"), Some(vec![("x", "1")]));
        assert_eq!(pattern("a.*.c").captures("a.b.c"), Some(vec![]));
        assert_eq!(pattern("a.{x}").captures("b.1"), None);
        assert_eq!(pattern("a").captures("a"), Some(vec![]));
    }

    #[test]
    fn a_literal_is_its_own_bytes() {
        check("a//b", &["a//b"], &["a/b"]);
        check("/", &["/"], &["a", "//"]);
        assert!(Pattern::literal("*").matches("*") && !Pattern::literal("*").matches("a"));
        assert_eq!(pattern("a.b"), Pattern::literal("a.b"));
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        for (text, why) in [
            ("", "empty"),
            (".*", "nothing stands before"),
            ("a*", "whole segment"),
            ("a.b*.c", "whole segment"),
            ("a.x{b}", "whole segment"),
            ("a.{b c}", "letters, digits"),
            ("a.{}", "more {} than values"),
            ("{x}.{x}", "twice"),
            ("{name}", "already called that"),
            (&"a".repeat(257), "longer"),
        ] {
            let error = Pattern::parse(text).unwrap_err();
            assert!(error.why.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_put_into_a_pattern_stays_what_it_is() {
        let stars = Pattern::with("user.{}.*", &["*"]).unwrap();
        assert!(!stars.matches("user.1.x") && stars.matches("user.*.x"));
        assert!(Pattern::with("user.{}.*", &["7"]).unwrap().matches("user.7.x"));
        assert!(Pattern::with("user.u{}", &["7"]).unwrap().matches("user.u7"));
        assert!(Pattern::with("user.{}", &["a.b"]).unwrap_err().why.contains("separator"));
        assert!(Pattern::with("user.{}", &[""]).unwrap_err().why.contains("empty"));
        assert!(Pattern::with("user.{}", &[]).is_err() && Pattern::with("user", &["x"]).is_err());
    }

    #[test]
    fn covering_means_that_nothing_escapes() {
        for (a, b) in [("*", "a"), ("*", "*"), ("a.*", "a.b"), ("a.*", "a.*.c.*"), ("a.{x}", "a.*.c"), ("$u.*", "$u.1")]
        {
            let covers = pattern(a).covers(&pattern(b));
            assert_eq!(covers, (a, b) != ("a.{x}", "a.*.c"), "{a} {b}");
        }
        for (a, b) in
            [("*", "$u.1"), ("a.*", "a"), ("a.b", "a.{x}"), ("a.{x}", "a.*"), ("a.*", "a/b"), ("a.b.*", "a.*")]
        {
            assert!(!pattern(a).covers(&pattern(b)), "{a} {b}");
        }
    }

    #[test]
    fn two_patterns_meet_where_some_name_matches_both() {
        for (a, b, meet) in [
            ("order.*", "order.1.x", true),
            ("order.*", "order", false),
            ("room.{room}", "room.42", true),
            ("room.{room}", "room.42.x", false),
            ("*.x", "a.*", true),
            ("*", "anything", true),
            ("*", "$user.1", false),
            ("a.b", "a/b", false),
            ("a.*", "b.*", false),
        ] {
            assert_eq!(pattern(a).meets(&pattern(b)), meet, "{a} {b}");
            assert_eq!(pattern(b).meets(&pattern(a)), meet, "{b} {a}");
        }
        for (text, example) in [("order.*", Some("order.x")), ("room/{a}:*.b", Some("room/x:x.b")), ("no space", None)]
        {
            assert_eq!(pattern(text).example().map(|name| name.to_string()).as_deref(), example, "{text}");
        }
    }

    #[test]
    fn no_patterns_match_nothing_and_a_list_matches_any() {
        assert!(!Patterns::default().matches("a"));
        let list = Patterns::from_strings(["a", "b.*"]).unwrap();
        assert!(list.matches("a") && list.matches("b.c") && !list.matches("b"));
        assert!(Patterns::from_strings(["a", ".*"]).is_err());
    }

    /// Found by `fuzz/run patterns`.
    #[test]
    fn a_wildcard_neither_covers_nor_meets_a_segment_with_nothing_in_it() {
        let parse = |text: &str| Pattern::parse(text).unwrap();
        for (wild, name) in [("*:*", "a:"), ("a:*", "a:"), ("a/*/b", "a//b"), ("{x}/b", "/b")] {
            let (wild, literal) = (parse(wild), parse(name));
            assert!(!wild.matches(name) && !wild.covers(&literal), "{wild} {name}");
            assert!(!wild.meets(&literal) && !literal.meets(&wild), "{wild} {name}");
        }
        assert!(parse("a/*").covers(&parse("a//b")) && parse("a/*").meets(&parse("a//b")));
    }
}
