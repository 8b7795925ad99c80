//! A route: the requests over HTTP that a plugin answers, by method and path.

use std::fmt;
use std::net::SocketAddr;

/// Which requests, and who may make them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    pub method: &'static str,
    pub path: PathPattern,
    pub auth: Auth,
    /// A listener of its own; none: the hub's.
    pub listen: Option<SocketAddr>,
}

/// Who may use a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Auth {
    /// Whoever the connect hooks let in with `grants.admin`.
    #[default]
    Admin,
    /// Whoever the connect hooks let in.
    Connect,
    /// Everybody; nobody asks who it is.
    None,
}

impl Auth {
    pub const WORDS: [&str; 3] = ["admin", "connect", "none"];

    pub fn parse(word: &str) -> Option<Auth> {
        match word {
            "admin" => Some(Auth::Admin),
            "connect" => Some(Auth::Connect),
            "none" => Some(Auth::None),
            _ => None,
        }
    }
}

pub const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

impl Route {
    /// A route for GET answers HEAD too; the server leaves out the body.
    pub fn answers(&self, method: &str) -> bool {
        self.method == method || (self.method == "GET" && method == "HEAD")
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        self.listen.map_or(Ok(()), |listen| write!(f, " on {listen}"))
    }
}

/// `/rooms/{id}`: literal segments, captures of one segment, and `*` at the end for everything below.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathPattern {
    text: String,
    segments: Vec<Segment>,
}

/// In the order in which they are tried.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Segment {
    Literal(String),
    Capture(String),
    Rest,
}

const MAX_BYTES: usize = 256;
/// What a trailing `*` stands for, among the parameters.
const REST: &str = "rest";

impl PathPattern {
    pub fn parse(text: &str) -> Result<PathPattern, String> {
        let wrong = |why: &str| Err(format!("path {text:?}: {why}"));
        let Some(inner) = text.strip_prefix('/') else { return wrong("it begins with /") };
        if text.len() > MAX_BYTES {
            return wrong("at most 256 bytes");
        }
        let mut segments = Vec::new();
        let (mut names, mut parts) = (Vec::new(), inner.split('/').peekable());
        while let Some(part) = parts.next() {
            let capture = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
            segments.push(match (part, capture) {
                ("*", _) if parts.peek().is_none() => {
                    names.push(REST);
                    Segment::Rest
                }
                (_, Some(name)) => {
                    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                        return wrong("a capture is {name}, in letters, digits and _");
                    }
                    names.push(name);
                    Segment::Capture(name.to_owned())
                }
                // "/", or a slash at the end.
                ("", _) if parts.peek().is_none() => Segment::Literal(String::new()),
                ("" | "." | "..", _) => return wrong("no segment is empty, . or .."),
                (literal, _) if literal.bytes().all(|b| b.is_ascii_graphic() && !b"*{}?#%\\".contains(&b)) => {
                    Segment::Literal(literal.to_owned())
                }
                _ => return wrong("* stands alone and at the end, {name} for a whole segment; no ?, # or %"),
            });
        }
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return wrong(&format!("{} is captured twice", twice[0]));
        }
        Ok(PathPattern { text: text.to_owned(), segments })
    }

    /// What the captures stand for, if this is such a path. Segments are compared and captured as what their escapes mean,
    /// one by one: an escaped slash stays within its segment.
    pub fn captures(&self, path: &str) -> Option<Vec<(&str, String)>> {
        let mut captured = Vec::new();
        let mut rest = path.strip_prefix('/')?;
        for (at, segment) in self.segments.iter().enumerate() {
            if *segment == Segment::Rest {
                // Alone it is every path: the shortest too, and those with broken escapes, as they are.
                let whole = match decoded(rest) {
                    None if at == 0 => rest.to_owned(),
                    whole => whole.filter(|whole| at == 0 || !whole.is_empty())?,
                };
                captured.push((REST, whole));
                return Some(captured);
            }
            let (part, below) = rest.split_once('/').map_or((rest, None), |(part, below)| (part, Some(below)));
            let part = decoded(part)?;
            match segment {
                Segment::Literal(literal) if *literal != part => return None,
                Segment::Capture(_) if part.is_empty() => return None,
                Segment::Literal(_) | Segment::Rest => {}
                Segment::Capture(name) => captured.push((name.as_str(), part)),
            }
            match below {
                Some(below) => rest = below,
                None if at + 1 == self.segments.len() => return Some(captured),
                None => return None,
            }
        }
        None
    }

    /// Whether both stand for the same paths, whatever their captures are called.
    pub fn equals(&self, other: &PathPattern) -> bool {
        self.segments.len() == other.segments.len()
            && self.segments.iter().zip(&other.segments).all(|pair| match pair {
                (Segment::Capture(_), Segment::Capture(_)) => true,
                (one, other) => one == other,
            })
    }

    /// Whether every path of `other` is one of this.
    pub fn covers(&self, other: &PathPattern) -> bool {
        let mut theirs = other.segments.iter();
        for segment in &self.segments {
            match (segment, theirs.next()) {
                (Segment::Rest, Some(_)) => return true,
                (Segment::Capture(_), Some(Segment::Literal(_) | Segment::Capture(_))) => {}
                (Segment::Literal(ours), Some(Segment::Literal(literal))) if ours == literal => {}
                _ => return false,
            }
        }
        theirs.next().is_none()
    }

    /// Whether there is a path that both stand for.
    pub fn overlaps(&self, other: &PathPattern) -> bool {
        let (mut ours, mut theirs) = (self.segments.iter(), other.segments.iter());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) | (Some(Segment::Rest), Some(_)) | (Some(_), Some(Segment::Rest)) => return true,
                (Some(Segment::Literal(one)), Some(Segment::Literal(other))) if one != other => return false,
                (Some(_), Some(_)) => {}
                (None, Some(_)) | (Some(_), None) => return false,
            }
        }
    }

    /// How its paths begin, as far as that is the same for all.
    pub fn literal(&self) -> &str {
        let end = self.text.find(['{', '*']).unwrap_or(self.text.len());
        &self.text[..end]
    }

    /// Those that say more come first: at the first difference a literal before a capture before `*`.
    pub fn rank(&self) -> Vec<u8> {
        let kind = |segment: &Segment| match segment {
            Segment::Literal(_) => 0,
            Segment::Capture(_) => 1,
            Segment::Rest => 2,
        };
        self.segments.iter().map(kind).collect()
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Without its percent escapes; none if they are broken or say what is no text.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap()
    }

    #[test]
    fn a_path_is_matched_segment_by_segment_and_captured_without_escapes() {
        let captured = |pattern: &str, of: &str| {
            path(pattern)
                .captures(of)
                .map(|all| all.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "))
        };
        for (pattern, of, expected) in [
            ("/rooms", "/rooms", Some("")),
            ("/rooms", "/rooms/", None),
            ("/rooms", "/room", None),
            ("/rooms/{id}", "/rooms/7", Some("id=7")),
            ("/rooms/{id}", "/rooms/", None),
            ("/rooms/{id}", "/rooms/7/x", None),
            ("/rooms/{id}", "/rooms/a%2Fb%20%C3%A9", Some("id=a/b é")),
            ("/rooms/{id}", "/rooms/%ff", None),
            ("/rooms/{id}", "/rooms/%2", None),
            ("/rooms/{id}/members/{user}", "/rooms/7/members/ann", Some("id=7 user=ann")),
            ("/files/*", "/files/a/b%20c", Some("rest=a/b c")),
            ("/files/*", "/files/", None),
            ("/files/*", "/files", None),
            ("/", "/", Some("")),
            ("/", "/a", None),
            ("/status/", "/status/", Some("")),
            ("/status/", "/status", None),
            ("/*", "/", Some("rest=")),
            ("/*", "/a/b", Some("rest=a/b")),
            ("/*", "/%zz", Some("rest=%zz")),
        ] {
            assert_eq!(captured(pattern, of).as_deref(), expected, "{pattern} {of}");
        }
    }

    #[test]
    fn what_is_no_path_is_named() {
        for bad in ["rooms", "/a//b", "//", "/a/*/b", "/a*", "/{}", "/{a}/{a}", "/{rest}/*", "/a?b", "/..", "/%41"] {
            assert!(PathPattern::parse(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn a_permission_covers_what_lies_within_it() {
        for (wide, narrow, covers) in [
            ("/rooms/*", "/rooms/{id}", true),
            ("/rooms/*", "/rooms/{id}/x/*", true),
            ("/rooms/*", "/rooms", false),
            ("/rooms/{id}", "/rooms/list", true),
            ("/rooms/{id}", "/rooms/*", false),
            ("/rooms/list", "/rooms/{id}", false),
            ("/*", "/rooms", true),
        ] {
            assert_eq!(path(wide).covers(&path(narrow)), covers, "{wide} {narrow}");
        }
        for (one, other, both) in
            [("/a/{x}", "/{y}/b", true), ("/a/*", "/a/b/c", true), ("/a/*", "/a", false), ("/a", "/b", false)]
        {
            assert_eq!(
                (path(one).overlaps(&path(other)), path(other).overlaps(&path(one))),
                (both, both),
                "{one} {other}"
            );
        }
        assert!(path("/a/{x}").equals(&path("/a/{y}")) && !path("/a/{x}").equals(&path("/a/*")));
    }
}
